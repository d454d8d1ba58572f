"""The proxy of the fault experiments: it causes the requested faults, nothing else, and leaves nothing behind."""

import asyncio
import time

import asyncpg
import pytest

from tests.support.broker import message_count, raw_channel, take_all
from tests.support.database import fetch_value
from tests.support.marks import COUNT, LOST, connection_to, mark
from tests.support.ports import free_port
from tests.support.proxy import Proxy
from tests.support.raw_http import raw_connection
from tests.support.waiting import eventually
from wallet.rabbitmq.connection import BrokerUnavailable

pytestmark = pytest.mark.usefixtures("no_task_afterwards")

IS_ASLEEP = "select 1 from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
DELAY_SECONDS = 0.25
FLOOD_BYTES = 64 * 2**20


async def test_cut_breaks_every_connection_and_takes_new_ones(marks_url: str) -> None:
    async with Proxy.to_server_of(marks_url) as proxy:
        for is_reset in (True, False):
            async with connection_to(proxy.url_of(marks_url)) as connection:
                sleeping = asyncio.create_task(connection.execute("select pg_sleep(20)"))
                await eventually(lambda: fetch_value(marks_url, IS_ASLEEP))
                proxy.cut(is_reset=is_reset)
                with pytest.raises(LOST):
                    await sleeping
                await eventually(lambda: proxy.connection_count == 0)
        async with connection_to(proxy.url_of(marks_url)) as connection:
            await mark(connection, 1)
        assert (proxy.counts.accepted, proxy.counts.cut) == (3, 2)


async def test_refuse_is_a_connection_refused_and_accept_takes_it_back(marks_url: str) -> None:
    async with Proxy.to_server_of(marks_url) as proxy:
        async with connection_to(proxy.url_of(marks_url)) as connection:
            proxy.refuse()
            with pytest.raises(LOST):
                await connection.execute("select 1")
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", proxy.port)
            proxy.refuse()
        await proxy.accept()
        async with connection_to(proxy.url_of(marks_url)) as connection:
            await mark(connection, 1)
        proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxy.port)


async def test_in_silence_a_statement_times_out_and_takes_effect_afterwards(marks_url: str) -> None:
    async with Proxy.to_server_of(marks_url) as proxy:
        async with connection_to(proxy.url_of(marks_url)) as connection:
            await connection.execute("begin")
            await connection.execute("insert into marks (number) values (1)")
            proxy.silence()
            committing = asyncio.create_task(connection.execute("commit", timeout=0.2))
            connecting = asyncio.create_task(asyncpg.connect(proxy.url_of(marks_url), timeout=0.2))
            for waiting in (committing, connecting):
                with pytest.raises(TimeoutError):
                    await waiting
        # The client is gone; what it sent is on its way all the same.
        assert await fetch_value(marks_url, COUNT) == 0
        proxy.speak()
        await eventually(lambda: fetch_value(marks_url, COUNT))
        async with connection_to(proxy.url_of(marks_url)) as connection:
            await mark(connection, 2)


async def test_what_was_held_in_silence_arrives_in_order(marks_url: str) -> None:
    async with Proxy.to_server_of(marks_url) as proxy, connection_to(proxy.url_of(marks_url)) as connection:
        proxy.silence()
        fetching = asyncio.create_task(connection.fetch("select generate_series(1, 200000)"))
        done, _ = await asyncio.wait([fetching], timeout=0.2)
        assert not done
        proxy.speak()
        assert [number for (number,) in await fetching] == list(range(1, 200_001))


async def test_a_slow_network_adds_its_delay_in_each_direction(marks_url: str) -> None:
    async with Proxy.to_server_of(marks_url) as proxy, connection_to(proxy.url_of(marks_url)) as connection:
        proxy.slow(DELAY_SECONDS)
        started = time.perf_counter()
        rows = await connection.execute("select generate_series(1, 100000)")
        took = time.perf_counter() - started
        assert rows == "SELECT 100000"
        # Its many chunks travel together.
        assert 2 * DELAY_SECONDS <= took < 2 * DELAY_SECONDS + 2
        proxy.slow(0)
        started = time.perf_counter()
        await connection.execute("select 1")
        assert time.perf_counter() - started < 2 * DELAY_SECONDS


async def test_amqp_passes_too(rabbitmq_url: str) -> None:
    async with Proxy.to_server_of(rabbitmq_url) as proxy, raw_channel(proxy.url_of(rabbitmq_url)) as channel:
        await channel.call(channel.pika.queue_declare, queue="q")
        channel.send(channel.pika.basic_publish, exchange="", routing_key="q", body=b"passes")
        await eventually(lambda: message_count(rabbitmq_url, "q"))
        proxy.cut()
        with pytest.raises(BrokerUnavailable):
            await channel.call(channel.pika.queue_declare, queue="q")
    assert [body for _, body in await take_all(rabbitmq_url, "q")] == [b"passes"]


async def test_a_server_that_is_away_looks_like_one_that_broke_off() -> None:
    async with Proxy.to("127.0.0.1", free_port()) as proxy, raw_connection(proxy.port) as connection:
        assert await connection.is_closed_by_server()


async def test_an_end_passes_and_the_other_direction_goes_on() -> None:
    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read())[::-1])
        writer.close()

    server = await asyncio.start_server(answer_at_the_end, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Proxy.to("127.0.0.1", port) as proxy:
        assert proxy.url_of(f"http://me:pw@127.0.0.1:{port}/a?b=c") == f"http://me:pw@127.0.0.1:{proxy.port}/a?b=c"
        assert proxy.url_of(f"amqp://127.0.0.1:{port}/%2F") == f"amqp://127.0.0.1:{proxy.port}/%2F"
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"abc")
        writer.write_eof()
        assert await reader.read() == b"cba"
        writer.close()
        await writer.wait_closed()
        await eventually(lambda: proxy.connection_count == 0)


async def test_a_flood_into_silence_is_held_back_at_its_source() -> None:
    flooded = 0

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal flooded
        while flooded < FLOOD_BYTES:
            writer.write(bytes(65_536))
            await writer.drain()
            flooded += 65_536
        writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with server, Proxy.to(*server.sockets[0].getsockname()) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        await eventually(lambda: flooded)
        proxy.silence()
        reading = asyncio.create_task(read_to_the_end(reader))
        await asyncio.wait([reading], timeout=0.5)
        assert flooded < FLOOD_BYTES / 2
        proxy.speak()
        assert await reading == FLOOD_BYTES
        writer.close()
        await writer.wait_closed()


async def read_to_the_end(reader: asyncio.StreamReader) -> int:
    length = 0
    while received := await reader.read(65_536):
        length += len(received)
    return length


@pytest.mark.parametrize("state", ["speaking", "silent", "slow", "refusing"])
async def test_whatever_is_going_on_at_the_end_nothing_is_left(marks_url: str, state: str) -> None:
    """The fixture `no_task_afterwards` checks for tasks; the warnings, which are errors, for sockets."""
    async with Proxy.to_server_of(marks_url) as proxy:
        url = proxy.url_of(marks_url)
        connections = [await asyncpg.connect(url) for _ in range(5)]
        asking = [asyncio.create_task(connection.execute("select pg_sleep(20)")) for connection in connections]
        await eventually(lambda: fetch_value(marks_url, IS_ASLEEP))
        match state:
            case "silent":
                proxy.silence()
            case "slow":
                proxy.slow(5)
            case "refusing":
                proxy.refuse()
            case _:
                proxy.speak()
        connecting = asyncio.create_task(connect_and_leave(url))
        await asyncio.wait([connecting], timeout=0.1)
    assert proxy.tasks == set()
    results = await asyncio.gather(*asking, connecting, return_exceptions=True)
    assert all(isinstance(result, LOST) for result in results[:-1])
    assert isinstance(results[-1], LOST) or state == "speaking"


async def connect_and_leave(url: str) -> None:
    async with connection_to(url):
        pass


async def test_an_error_of_the_test_passes_as_it_is(marks_url: str) -> None:
    with pytest.raises(ZeroDivisionError):
        await fail_behind_a_proxy(marks_url)


async def fail_behind_a_proxy(url: str) -> None:
    async with Proxy.to_server_of(url) as proxy, connection_to(proxy.url_of(url)):
        raise ZeroDivisionError
