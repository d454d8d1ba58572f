"""15: clients that disconnect after sending, send half a request, or send nothing at all."""

import asyncio
import json
import socket
import struct
from contextlib import ExitStack
from itertools import islice

from tests.fault.laboratory import Laboratory
from tests.fault.proof import REST_SECONDS_MAX
from tests.support.client import open_client
from tests.support.database import connected, fetch_rows, fetch_value
from tests.support.process_faults import suspend
from tests.support.processes import WalletProcess
from tests.support.waiting import eventually, pause

AT_ONCE = "vanished-at-once"
WAITED = "vanished-while-waiting"
VANISHING = {AT_ONCE: 150, WAITED: 50}
"""The number of requests whose client disconnects, by wallet: perhaps before the request is read, or after."""
DEFERRED_SECONDS = 1.0
PATIENT = "90"
"""The deadline is long, because a request that waits for a stalled disk would rightly be refused."""
HALF_OPEN = 100
EFFECTS = "select count(*) from events where wallet_id = $1 and type = 'FundsDeposited'"
READ = """
select count(*), (select count(*) from events where wallet_id = $1 and type = 'FundsDeposited')
from api_audit where wallet_id = $1
"""
RESET = struct.pack("ii", 1, 0)


async def vanish(lab: Laboratory) -> None:
    """Whatever the client does, a request has its effect once or not at all, and other clients are not affected."""
    await lab.start_relay()
    await lab.start_worker()
    api = await lab.start_api(REQUEST_DEADLINE_SECONDS=PATIENT)
    with ExitStack() as idle:
        for number in range(HALF_OPEN):
            connection = idle.enter_context(await _connect(api))
            if number % 2:
                connection.sendall(b"POST /wallet/half/deposit HTTP/1.1\r\nHost: localhost\r\nContent-Le")
        async with lab.load(concurrency=8) as history:
            await _vanish_at_once(lab, api)
            await history.more_answers(100)
        await _vanish_while_waiting(lab, api)
        [(read, effects)] = await fetch_rows(lab.database_url, READ, AT_ONCE)
        lab.note(f"{read} of {VANISHING[AT_ONCE]} requests were read though nobody waited, and {effects} took effect")
        assert read == effects, "a request that was read had no effect, or one that has no audit row"
        async with open_client(api.url) as client:
            posts = [
                client.post(f"/wallet/{wallet_id}/deposit", _body(wallet_id, number))
                for wallet_id, count in VANISHING.items()
                for number in range(count)
            ]
            assert {reply.status for reply in await asyncio.gather(*posts)} == {201}
        assert {wallet_id: await _effects(lab, wallet_id) for wallet_id in VANISHING} == VANISHING
        assert await fetch_value(lab.database_url, "select count(*) from wallets where wallet_id = 'half'") == 0


async def _vanish_at_once(lab: Laboratory, api: WalletProcess) -> None:
    """Send requests and disconnect. Any of them may or may not take effect: the server need not have read it.

    The last third is sent while the api is stopped, as on an overloaded machine: few of them are read in time.
    """
    numbers = iter(range(VANISHING[AT_ONCE]))
    for number in islice(numbers, 100):
        _vanish(await _send(api, AT_ONCE, number), is_reset=bool(lab.draw.randrange(2)))
    async with suspend(api):
        for number in numbers:
            _vanish(await _send(api, AT_ONCE, number), is_reset=bool(lab.draw.randrange(2)))


async def _vanish_while_waiting(lab: Laboratory, api: WalletProcess) -> None:
    """Each request that was read and waits for a locked wallet takes effect, although its client has disconnected."""
    async with open_client(api.url) as client:
        assert (await client.post(f"/wallet/{WAITED}/deposit", _body(WAITED, 0))).status == 201
    async with connected(lab.database_url) as outside, outside.transaction():
        await outside.execute("select from wallets where wallet_id = $1 for update", WAITED)
        with ExitStack() as stack:
            gone = [stack.enter_context(await _send(api, WAITED, number)) for number in range(1, VANISHING[WAITED])]
            await lab.have_been_read(len(gone), api)
            for connection in gone:
                _vanish(connection, is_reset=bool(lab.draw.randrange(2)))
        await pause(DEFERRED_SECONDS)

    async def have_taken_effect() -> bool:
        found = await _effects(lab, WAITED)
        assert found == VANISHING[WAITED], f"{found} requests that were read outlived their client"
        return True

    await eventually(have_taken_effect, within=REST_SECONDS_MAX)


async def _effects(lab: Laboratory, wallet_id: str) -> int:
    effects = await fetch_value(lab.database_url, EFFECTS, wallet_id)
    assert isinstance(effects, int)
    return effects


async def _connect(api: WalletProcess) -> socket.socket:
    connection = socket.socket()
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", api.port))
    return connection


async def _send(api: WalletProcess, wallet_id: str, number: int) -> socket.socket:
    """Send a whole request."""
    body = json.dumps(_body(wallet_id, number)).encode()
    head = (
        f"POST /wallet/{wallet_id}/deposit HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    connection = await _connect(api)
    await asyncio.get_running_loop().sock_sendall(connection, head.encode() + body)
    return connection


def _vanish(connection: socket.socket, *, is_reset: bool) -> None:
    """Close the socket without reading a byte, with a reset if `is_reset` is true."""
    if is_reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    connection.close()


def _body(wallet_id: str, number: int) -> dict[str, object]:
    return {"amount": 1, "requestId": f"{wallet_id}-{number}"}
