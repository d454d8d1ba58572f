"""The proxy that reads PostgreSQL's protocol loses the chosen COMMIT at the chosen point, and nothing else."""

import asyncio
import random
import time

import asyncpg
import pytest

from tests.support.database import fetch_value
from tests.support.marks import COUNT, LOST, connection_to, mark
from tests.support.postgres_messages import NotPostgres
from tests.support.postgres_proxy import Commit, Loss, PostgresConversation, PostgresProxy, with_probability
from tests.support.raw_http import raw_connection

pytestmark = pytest.mark.usefixtures("no_task_afterwards")

SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)


async def test_thousands_of_rows_pass_unchanged_both_ways(marks_url: str) -> None:
    rows = [(number, "ü" * (number % 300)) for number in range(5_000)]
    async with PostgresProxy.to_server_of(marks_url) as proxy, connection_to(proxy.url_of(marks_url)) as connection:
        await connection.copy_records_to_table("marks", records=rows)
        assert list(map(tuple, await connection.fetch("select number, text from marks order by number"))) == rows
        await connection.executemany("update marks set text = $2 where number = $1", rows[:2_000])
        long = "x" * 3_000_000
        assert await connection.fetchval("select $1::text", long) == long
        assert (proxy.connection_count, proxy.counts.accepted) == (1, 1)
    assert proxy.connection_count == 0


async def test_thousands_of_messages_a_second_pass(marks_url: str) -> None:
    async with PostgresProxy.to_server_of(marks_url) as proxy:
        pool = await asyncpg.create_pool(proxy.url_of(marks_url), min_size=4, max_size=4)
        started = time.perf_counter()
        values = await asyncio.gather(*(pool.fetchval("select $1::int", number) for number in range(2_000)))
        took = time.perf_counter() - started
        pool.terminate()
    assert values == list(range(2_000))
    assert took < 10, f"2,000 statements took {took:.1f} s"


async def test_a_commit_cut_before_it_is_forwarded_is_rolled_back(marks_url: str) -> None:
    async with PostgresProxy.to_server_of(marks_url) as proxy:
        proxy.cut_before_commit(2)
        async with connection_to(proxy.url_of(marks_url)) as connection:
            await mark(connection, 1)
            with pytest.raises(LOST):
                await mark(connection, 2)
        [cut] = await proxy.commits_cut()
        assert (cut.commit, cut.loss, cut.reply) == (Commit(2, "test"), Loss.COMMIT, None)
        assert await fetch_value(marks_url, COUNT) == 1
        async with connection_to(proxy.url_of(marks_url)) as connection:
            await mark(connection, 2)
    assert await fetch_value(marks_url, COUNT) == 2


async def test_a_commit_cut_after_it_was_forwarded_is_done_though_the_client_got_an_error(marks_url: str) -> None:
    async with PostgresProxy.to_server_of(marks_url) as proxy:
        proxy.cut_after_commit()
        async with connection_to(proxy.url_of(marks_url)) as connection:
            with pytest.raises(LOST):
                await mark(connection, 1)
        [cut] = await proxy.commits_cut()
        assert (cut.loss, cut.reply) == (Loss.ANSWER, "COMMIT")
    assert await fetch_value(marks_url, COUNT) == 1


@pytest.mark.parametrize(("loss", "count"), [(Loss.COMMIT, 0), (Loss.ANSWER, 1)])
async def test_a_prepared_commit_is_cut_too(marks_url: str, loss: Loss, count: int) -> None:
    async with PostgresProxy.to_server_of(marks_url) as proxy, connection_to(proxy.url_of(marks_url)) as connection:
        proxy.lose(loss)
        await connection.execute("begin")
        await connection.execute("insert into marks (number) values (1)")
        with pytest.raises(LOST):
            await connection.fetch("commit")
        [cut] = await proxy.commits_cut()
        assert cut.reply == (None if loss is Loss.COMMIT else "COMMIT")
    assert await fetch_value(marks_url, COUNT) == count


async def test_the_answer_to_a_commit_that_failed_is_distinguished_from_one_that_did_not(marks_url: str) -> None:
    async with PostgresProxy.to_server_of(marks_url) as proxy, connection_to(proxy.url_of(marks_url)) as connection:
        proxy.cut_after_commit()
        await connection.execute("begin")
        with pytest.raises(asyncpg.UndefinedTableError):
            await connection.execute("insert into nowhere (number) values (1)")
        with pytest.raises(LOST):
            await connection.execute("commit")
        assert [cut.reply for cut in await proxy.commits_cut()] == ["ROLLBACK"]


class ByteByByteConversation(PostgresConversation):
    """Meets a network in which every byte is a separate segment."""

    def to_server(self, data: bytes) -> bytes:
        return b"".join(super(ByteByByteConversation, self).to_server(bytes([byte])) for byte in data)

    def to_client(self, data: bytes) -> bytes:
        return b"".join(super(ByteByByteConversation, self).to_client(bytes([byte])) for byte in data)


class ByteByByteProxy(PostgresProxy):
    def converse(self) -> PostgresConversation:
        return ByteByByteConversation(self.decide, self.cut_commits.append)


@pytest.mark.parametrize(("loss", "count"), [(Loss.COMMIT, 0), (Loss.ANSWER, 1)])
async def test_a_commit_that_arrives_byte_by_byte_is_cut(marks_url: str, loss: Loss, count: int) -> None:
    async with ByteByByteProxy.to_server_of(marks_url) as proxy, connection_to(proxy.url_of(marks_url)) as connection:
        proxy.lose(loss)
        with pytest.raises(LOST):
            await mark(connection, 1)
        await proxy.commits_cut()
    assert await fetch_value(marks_url, COUNT) == count


@pytest.mark.parametrize(("loss", "count"), [(Loss.COMMIT, 1), (Loss.ANSWER, 2)])
async def test_of_two_pipelined_commits_the_second_is_cut(marks_url: str, loss: Loss, count: int) -> None:
    pipeline = ["begin", "insert into marks values (1)", "commit", "begin", "insert into marks values (2)", "COMMIT;"]
    async with PostgresProxy.to_server_of(marks_url) as proxy, connection_to(proxy.url_of(marks_url)) as connection:
        proxy.lose(loss, 2)
        # asyncpg never pipelines: it has logged in, and from here on its socket is used without it.
        transport: asyncio.Transport = connection._transport  # type: ignore[attr-defined]
        transport.pause_reading()
        transport.write(b"".join(b"Q" + (len(text) + 5).to_bytes(4) + text.encode() + b"\0" for text in pipeline))
        [cut] = await proxy.commits_cut()
        assert (cut.commit.number, cut.loss, proxy.commit_count) == (2, loss, 2)
    assert await fetch_value(marks_url, COUNT) == count


async def test_only_the_picked_commits_are_cut(marks_url: str, seed: int) -> None:
    marked = 0
    async with PostgresProxy.to_server_of(marks_url) as proxy:
        proxy.cut_before_commit(lambda commit: commit.application_name == "victim")
        async with connection_to(proxy.url_of(marks_url)) as other:
            await mark(other, -1)
        async with connection_to(proxy.url_of(marks_url), name="victim") as victim:
            with pytest.raises(LOST):
                await mark(victim, -2)
        proxy.let_commits_pass()
        proxy.cut_after_commit(with_probability(0.5, random.Random(seed)))
        for number in range(20):
            async with connection_to(proxy.url_of(marks_url), name="victim") as connection:
                try:
                    await mark(connection, number)
                except LOST:
                    continue
                marked += 1
        assert len(await proxy.commits_cut(21 - marked)) == 21 - marked
        assert proxy.commit_count == 22
    draw = random.Random(seed)
    assert marked == sum(draw.random() >= 0.5 for _ in range(20))
    assert await fetch_value(marks_url, COUNT) == 21


async def test_a_cancelled_statement_is_cancelled_through_the_proxy(marks_url: str) -> None:
    async with PostgresProxy.to_server_of(marks_url) as proxy, connection_to(proxy.url_of(marks_url)) as connection:
        with pytest.raises(TimeoutError):
            await connection.execute("select pg_sleep(20)", timeout=0.2)
        assert await asyncio.wait_for(connection.fetchval("select 1"), 5) == 1
        assert proxy.counts.accepted == 2


async def test_a_request_for_encryption_is_answered_by_the_server(marks_url: str) -> None:
    async with PostgresProxy.to_server_of(marks_url) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        for byte in SSL_REQUEST:
            writer.write(bytes([byte]))
            await writer.drain()
        assert await reader.read(10) == b"N"
        writer.close()
        await writer.wait_closed()
        prefers_encryption = await asyncpg.connect(proxy.url_of(marks_url), ssl="prefer")
        assert await prefers_encryption.fetchval("select 1") == 1
        await prefers_encryption.close()


async def test_what_is_no_postgres_fails_the_test() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await speak_http_to_postgres()
    assert raised.group_contains(NotPostgres)


async def speak_http_to_postgres() -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with (
        server,
        PostgresProxy.to(*server.sockets[0].getsockname()) as proxy,
        raw_connection(proxy.port) as connection,
    ):
        await connection.send(b"GET / HTTP/1.1\r\n\r\n")
        await connection.answer()
