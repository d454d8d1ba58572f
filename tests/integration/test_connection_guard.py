"""One client cannot take the connections of the others: silent ones are closed, and nobody has more than a quarter."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.support.api import HOST, head, running_api
from tests.support.processes import Processes
from tests.support.waiting import eventually
from wallet.api.edge.server import ServerLimits, allow_many_connections

HOSTILE = "127.0.0.2"
IDLE_SOCKETS = 4_300
NEW_A_SECOND = 290
ANSWER_SECONDS_MAX = 2.0
CLOSE_SECONDS_MAX = 8.0


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    """Sockets of a test are closed with it."""
    allow_many_connections()
    with ExitStack() as stack:
        yield stack


def opened(sockets: ExitStack, port: int, source: str) -> socket.socket:
    """A connection from this address, on which nothing is sent."""
    return sockets.enter_context(socket.create_connection((HOST, port), timeout=5, source_address=(source, 0)))


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def test_a_connection_on_which_nothing_arrives_is_closed_after_five_seconds(
    database_url: str, sockets: ExitStack
) -> None:
    async with running_api(database_url, server_limits=ServerLimits()) as api:
        silent = opened(sockets, api.port, HOST)
        used = opened(sockets, api.port, HOST)
        used.sendall(head("GET", "/healthz"))
        began = time.monotonic()
        await eventually(lambda: is_closed(silent), within=CLOSE_SECONDS_MAX)
        assert time.monotonic() - began > 4
        used.settimeout(5)
        assert (await asyncio.to_thread(used.recv, 65536)).startswith(b"HTTP/1.1 200")
        used.sendall(head("GET", "/healthz"))
        assert (await asyncio.to_thread(used.recv, 65536)).startswith(b"HTTP/1.1 200")


async def test_one_address_has_a_quarter_of_the_connections_and_a_trusted_proxy_has_more(
    database_url: str, sockets: ExitStack
) -> None:
    limits = ServerLimits(connections_max=40)
    async with running_api(database_url, server_limits=limits, trusted_proxies="127.0.0.3/32") as api:
        by_proxy = [opened(sockets, api.port, "127.0.0.3") for _ in range(15)]
        by_hostile = [opened(sockets, api.port, HOSTILE) for _ in range(15)]
        await eventually(lambda: sum(map(is_closed, by_hostile)) >= 5, within=3)
        assert sum(map(is_closed, by_hostile)) == 5
        assert not any(map(is_closed, by_proxy))


async def test_thousands_of_idle_sockets_and_hundreds_of_new_ones_a_second_keep_nobody_out(
    database_url: str, processes: Processes, sockets: ExitStack
) -> None:
    api = processes.start_api(DATABASE_URL=database_url)
    for _ in range(IDLE_SOCKETS):
        opened(sockets, api.port, HOSTILE)
    is_over = asyncio.Event()

    async def open_more() -> None:
        while not is_over.is_set():
            began = time.monotonic()
            for _ in range(NEW_A_SECOND // 10):
                await asyncio.to_thread(opened, sockets, api.port, HOSTILE)
            await asyncio.wait([asyncio.create_task(is_over.wait())], timeout=0.1 - (time.monotonic() - began))

    opening = asyncio.create_task(open_more())
    try:
        for number in range(30):
            # A new connection each time, as the first one of an honest client is.
            async with httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=ANSWER_SECONDS_MAX) as client:
                assert (await client.get("/healthz")).status_code == 200
                body = {"amount": "1", "requestId": f"honest-{number}"}
                assert (await client.post("/wallet/alice/deposit", json=body)).status_code == 201
    finally:
        is_over.set()
        await opening


async def test_a_burst_of_one_client_beyond_all_connections_does_not_delay_another(
    database_url: str, sockets: ExitStack
) -> None:
    limits = ServerLimits(connections_max=40)
    async with running_api(database_url, server_limits=limits) as api:
        for _ in range(60):
            opened(sockets, api.port, HOSTILE)
        async with asyncio.timeout(1.0):
            assert (await api.get("/healthz")).status == 200


async def test_all_clients_together_hold_no_more_connections_than_are_kept(
    database_url: str, sockets: ExitStack
) -> None:
    limits = ServerLimits(connections_max=40)
    async with running_api(database_url, server_limits=limits) as api:
        held = [opened(sockets, api.port, f"127.0.0.{number}") for number in range(2, 9) for _ in range(10)]
        await eventually(lambda: sum(not is_closed(each) for each in held) <= limits.connections_max)
        assert (await api.get("/healthz")).status == 200
