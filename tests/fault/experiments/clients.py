"""15: clients that vanish after sending, send half a request, or say nothing at all."""

import asyncio
import json
import socket
import struct

from tests.fault.laboratory import Laboratory
from tests.support.books import fetch_value
from tests.support.client import open_client
from tests.support.processes import WalletProcess

VANISHING = 200
HALF_OPEN = 100
EFFECTS = "select count(*) from events where wallet_id = 'vanished' and type = 'FundsDeposited'"
RESET = struct.pack("ii", 1, 0)


async def vanish(lab: Laboratory) -> None:
    """Whatever the client does, a request has its effect once or not at all; and the others do not notice."""
    await lab.start_relay()
    await lab.start_worker()
    api = await lab.start_api()
    idle = [await _connect(api) for _ in range(HALF_OPEN)]
    for number, connection in enumerate(idle):
        if number % 2:
            connection.sendall(b"POST /wallet/half/deposit HTTP/1.1\r\nHost: wallet\r\nContent-Le")
    async with lab.load(concurrency=8) as history:
        for number in range(VANISHING):
            await _send_and_vanish(api, number, is_reset=bool(lab.draw.randrange(2)))
        await history.more_answers(100)
    effects = await fetch_value(lab.database_url, EFFECTS)
    lab.note(f"{effects} of {VANISHING} requests whose client had vanished took effect; {HALF_OPEN} sockets half open")
    assert isinstance(effects, int)
    assert effects > VANISHING / 2, f"only {effects} of {VANISHING} requests outlived their client"
    async with open_client(api.url) as client:
        posts = [client.post("/wallet/vanished/deposit", _body(number)) for number in range(VANISHING)]
        assert {reply.status for reply in await asyncio.gather(*posts)} == {201}
    assert await fetch_value(lab.database_url, EFFECTS) == VANISHING
    assert await fetch_value(lab.database_url, "select count(*) from wallets where wallet_id = 'half'") == 0
    for connection in idle:
        connection.close()


async def _connect(api: WalletProcess) -> socket.socket:
    connection = socket.socket()
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", api.port))
    return connection


async def _send_and_vanish(api: WalletProcess, number: int, *, is_reset: bool) -> None:
    """Send a whole request and close the socket at once, by a reset if so drawn, without reading a byte."""
    body = json.dumps(_body(number)).encode()
    head = (
        "POST /wallet/vanished/deposit HTTP/1.1\r\nHost: wallet\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    connection = await _connect(api)
    with connection:
        await asyncio.get_running_loop().sock_sendall(connection, head.encode() + body)
        if is_reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def _body(number: int) -> dict[str, object]:
    return {"amount": 1, "requestId": f"vanished-{number}"}
