"""An address of several hosts: every connection goes to the one that takes writes, whatever the others do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.support.database import fetch_value
from tests.support.ports import free_port
from tests.support.waiting import eventually
from wallet.postgres import connections
from wallet.postgres.connections import connect, open_pool

NAME = "test hosts"
# Readiness asks the database for two seconds.
FOUND_SECONDS_MAX = 1.5


def with_hosts(url: str, *others: int, is_first: bool = False) -> str:
    """The address with other ports of this machine before it, or after."""
    login, _, place = url.partition("@")
    host, _, database = place.partition("/")
    places = [f"127.0.0.1:{port}" for port in others]
    return f"{login}@{','.join([host, *places] if is_first else [*places, host])}/{database}"


@asynccontextmanager
async def silent_host() -> AsyncIterator[int]:
    """A port that takes connections and never says a word, as a machine does that has frozen."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def test_a_silent_host_and_one_that_is_away_cost_a_moment(database_url: str) -> None:
    async with silent_host() as silent:
        url = with_hosts(database_url, silent, free_port())
        async with asyncio.timeout(FOUND_SECONDS_MAX):
            connection = await connect(url, application_name=NAME)
            assert await connection.fetchval("select 1") == 1
        await connection.close()
        async with open_pool(url, application_name=NAME, size_max=2) as pool, asyncio.timeout(FOUND_SECONDS_MAX):
            assert await pool.fetchval("select 1") == 1


async def test_of_several_hosts_that_answer_one_connection_is_kept(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_START_SECONDS", 0)
    port = int(database_url.partition("@")[2].partition(":")[2].partition("/")[0])
    kept = await asyncio.gather(
        *(connect(with_hosts(database_url, port, port), application_name=NAME) for _ in range(5))
    )

    async def are_kept() -> bool:
        count = await fetch_value(
            database_url,
            "select count(*) from pg_stat_activity where application_name = $1 and datname = current_database()",
            NAME,
        )
        return bool(count == len(kept))

    await eventually(are_kept)
    for connection in kept:
        await connection.close()


@pytest.mark.parametrize("is_first", [True, False])
async def test_what_a_server_answered_is_reported_though_another_is_away(database_url: str, is_first: bool) -> None:
    url = with_hosts(database_url.replace("@", "-guessed@"), free_port(), is_first=is_first)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await connect(url, application_name=NAME)


async def test_if_all_are_away_that_is_an_error_of_the_network(database_url: str) -> None:
    url = f"postgresql://wallet:secret@127.0.0.1:{free_port()},127.0.0.1:{free_port()}/wallet"
    with pytest.raises(OSError, match="Connect call failed"):
        await connect(url, application_name=NAME)
