"""15: clients that vanish after sending, send half a request, or say nothing at all."""

import asyncio
import json
import socket
import struct

from tests.fault.laboratory import Laboratory
from tests.fault.proof import REST_SECONDS_MAX
from tests.support.books import fetch_value
from tests.support.client import open_client
from tests.support.processes import WalletProcess
from tests.support.relay import connected
from tests.support.waiting import eventually, last

VANISHING = 200
WAITING = 50
HELD_SECONDS = 1.0
PATIENT = "90"
"""A disk that stalls for longer than a request may wait is another fault: it would have been refused, rightly."""
HALF_OPEN = 100
EFFECTS = "select count(*) from events where wallet_id = 'vanished' and type = 'FundsDeposited'"
RESET = struct.pack("ii", 1, 0)


async def vanish(lab: Laboratory) -> None:
    """Whatever the client does, a request has its effect once or not at all; and the others do not notice."""
    await lab.start_relay()
    await lab.start_worker()
    api = await lab.start_api(REQUEST_DEADLINE_SECONDS=PATIENT)
    idle = [await _connect(api) for _ in range(HALF_OPEN)]
    for number, connection in enumerate(idle):
        if number % 2:
            connection.sendall(b"POST /wallet/half/deposit HTTP/1.1\r\nHost: wallet\r\nContent-Le")
    async with lab.load(concurrency=8) as history:
        for number in range(VANISHING - WAITING):
            await _send_and_vanish(api, number, is_reset=bool(lab.draw.randrange(2)))
        await history.more_answers(100)
    await _vanish_while_waiting(lab, api)
    effects = await _effects(lab)
    lab.note(f"{effects} of {VANISHING} requests whose client had vanished took effect; {HALF_OPEN} sockets half open")
    assert effects > VANISHING / 2, f"only {effects} of {VANISHING} requests outlived their client"
    async with open_client(api.url) as client:
        posts = [client.post("/wallet/vanished/deposit", _body(number)) for number in range(VANISHING)]
        assert {reply.status for reply in await asyncio.gather(*posts)} == {201}
    assert await _effects(lab) == VANISHING
    assert await fetch_value(lab.database_url, "select count(*) from wallets where wallet_id = 'half'") == 0
    for connection in idle:
        connection.close()


async def _vanish_while_waiting(lab: Laboratory, api: WalletProcess) -> None:
    """Requests that were read and wait for a held wallet take effect, each of them, though their clients are gone."""
    async with connected(lab.database_url) as outside, outside.transaction():
        await outside.execute("select from wallets where wallet_id = 'vanished' for update")
        before = await _effects(lab)
        gone = [await _send(api, number) for number in range(VANISHING - WAITING, VANISHING)]
        await last(HELD_SECONDS)
        for connection in gone:
            _close(connection, is_reset=bool(lab.draw.randrange(2)))
        await last(HELD_SECONDS)

    async def have_taken_effect() -> bool:
        found = await _effects(lab)
        assert found == before + WAITING, f"{found - before} of {WAITING} requests that were read outlived their client"
        return True

    await eventually(have_taken_effect, within=REST_SECONDS_MAX)


async def _effects(lab: Laboratory) -> int:
    effects = await fetch_value(lab.database_url, EFFECTS)
    assert isinstance(effects, int)
    return effects


async def _connect(api: WalletProcess) -> socket.socket:
    connection = socket.socket()
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", api.port))
    return connection


async def _send_and_vanish(api: WalletProcess, number: int, *, is_reset: bool) -> None:
    """Send a whole request and close the socket at once, by a reset if so drawn, without reading a byte."""
    _close(await _send(api, number), is_reset=is_reset)


async def _send(api: WalletProcess, number: int) -> socket.socket:
    body = json.dumps(_body(number)).encode()
    head = (
        "POST /wallet/vanished/deposit HTTP/1.1\r\nHost: wallet\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    connection = await _connect(api)
    await asyncio.get_running_loop().sock_sendall(connection, head.encode() + body)
    return connection


def _close(connection: socket.socket, *, is_reset: bool) -> None:
    if is_reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    connection.close()


def _body(number: int) -> dict[str, object]:
    return {"amount": 1, "requestId": f"vanished-{number}"}
