"""Two primaries of one cluster: a process that has seen the promoted one writes to the old one no more."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import pytest

from tests.support.database import fetch_value
from tests.support.postgres import PostgresServer
from tests.support.reaper import Reaper
from tests.support.standby import Standby
from tests.support.waiting import eventually
from wallet.postgres.connections import StaleServer, connect, open_pool
from wallet.postgres.errors import Failure, failure_of

NAME = "test primaries"
PORT = "select inet_server_port()"


@pytest.fixture
def standby(reaper: Reaper, own_postgres_server: PostgresServer) -> Iterator[Standby]:
    """A standby that follows the test's own server."""
    own_postgres_server.create_database()
    with Standby(reaper, own_postgres_server) as server:
        yield server


def port_of(url: str) -> int:
    return int(url.partition("@")[2].partition(":")[2].partition("/")[0])


def both_of(first: PostgresServer, second: PostgresServer) -> str:
    """One address that names both servers, in this order."""
    return first.url("wallet_1").replace("/wallet_1", f",127.0.0.1:{port_of(second.url('wallet_1'))}/wallet_1")


@contextmanager
def is_frozen(server: PostgresServer) -> Iterator[None]:
    """While inside, the server accepts no new connection; its open ones still work."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def test_after_a_failover_no_connection_goes_to_the_old_primary_that_still_runs(
    own_postgres_server: PostgresServer, standby: Standby
) -> None:
    url = both_of(own_postgres_server, standby)
    old_port, new_port = port_of(own_postgres_server.url("wallet_1")), port_of(standby.url("wallet_1"))
    async with open_pool(url, application_name=NAME, size_max=2) as pool:
        kept = await connect(url, application_name=NAME)
        assert await kept.fetchval(PORT) == old_port
        assert await pool.fetchval(PORT) == old_port
        standby.promote()
        with is_frozen(own_postgres_server):
            found = await connect(url, application_name=NAME)
            assert await found.fetchval(PORT) == new_port
        assert kept.is_closed()
        assert await pool.fetchval(PORT) == new_port
        assert failure_of(await error_of(kept)) is Failure.RECONNECT
        for _ in range(5):
            again = await connect(url, application_name=NAME)
            assert await again.fetchval(PORT) == new_port
            await again.close()
        assert not found.is_closed()
        await found.close()


async def error_of(connection: "asyncpg.Connection[asyncpg.Record]") -> Exception:
    try:
        await connection.execute("select 1")
    except asyncpg.InterfaceError as error:
        return error
    raise AssertionError("the connection still works")


async def test_an_address_that_leads_to_the_old_primary_again_is_refused_with_the_cure(
    own_postgres_server: PostgresServer, standby: Standby
) -> None:
    """As where a name or a virtual address moves: the process sees one host, and another server behind it."""
    address = own_postgres_server.url("wallet_1")
    behind = {"port": port_of(standby.url("wallet_1"))}
    server = await asyncio.start_server(lambda reader, writer: join(reader, writer, behind["port"]), "127.0.0.1", 0)
    async with server:
        url = address.replace(str(port_of(address)), str(server.sockets[0].getsockname()[1]))
        standby.promote()
        await (await connect(url, application_name=NAME)).close()
        behind["port"] = port_of(address)
        with pytest.raises(StaleServer, match=r"timeline 1, but .* seen timeline 2.*Stop the old primary"):
            await connect(url, application_name=NAME)

        async def has_no_session() -> bool:
            sessions = "select count(*) from pg_stat_activity where application_name = $1"
            return bool(await fetch_value(address, sessions, NAME) == 0)

        await eventually(has_no_session)


async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Pass bytes on in both directions until one side closes."""
    other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
        target.close()

    await asyncio.gather(copy(reader, other_writer), copy(other_reader, writer), return_exceptions=True)
