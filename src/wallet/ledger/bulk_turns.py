"""The turns of bulk requests: each client address has at most two under way, its others wait in order of arrival.

A process keeps at most BULK_MAX bulk requests, waiting or under way, since each is up to a megabyte of memory. One
address may use all of that while no other address needs it. When there is no room left, a request of an address that
has fewer takes the place of the newest one that waits for an address that has the most, and that one is not executed.

A batch of a thousand operations keeps the processor busy for long stretches. So beside many single requests, the turn
of a bulk request is passed on only after a rest of REST_FACTOR times the time that its operations took. Otherwise one
client that sends such requests all the time would take most of the throughput of the others. The bulk requests of
other addresses do not wait for that rest.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from wallet.ledger.answers import NotExecuted

BULK_MAX: Final = 64
BULK_UNDER_WAY_MAX: Final = 2
"""Of one address: while one commits, the next one is ready."""
REST_FACTOR: Final = 12
REST_SECONDS_MAX: Final = 3.0
REST_SINGLES_A_SECOND_MIN: Final = 20


@dataclass(slots=True)
class _Client:
    """The bulk requests of one address; it is forgotten when it has none."""

    under_way: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    def __len__(self) -> int:
        return self.under_way + len(self.waiting)


class BulkTurns:
    """Decides when a bulk request may join the queue of the lanes."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client] = {}
        self._count = 0
        self._rest_seconds_per_command = 0.0

    @property
    def waiting_count(self) -> int:
        """Bulk requests that wait for their turn."""
        return sum(len(client.waiting) for client in self._clients.values())

    @asynccontextmanager
    async def turn(self, address: str, deadline: float, command_count: int = 1) -> AsyncIterator[None]:
        """Wait for the turn of one request of this address, which lasts until the block ends.

        Raises NotExecuted if there is no room, or if the turn does not come before the deadline (in the event loop's
        clock).
        """
        client = self._clients.get(address)
        if client is None:
            client = _Client()
        if self._count >= BULK_MAX:
            self._make_room_beside(client)
        self._clients[address] = client
        self._count += 1
        try:
            if client.under_way < BULK_UNDER_WAY_MAX:
                client.under_way += 1
            else:
                await _turn_of(client, deadline)
            try:
                yield
            finally:
                rest_seconds = min(self._rest_seconds_per_command * command_count, REST_SECONDS_MAX)
                if rest_seconds:
                    asyncio.get_running_loop().call_later(rest_seconds, self._check_everything, client, address)
                else:
                    self._check_everything(client, address)
        finally:
            self._count -= 1
            self._forget(client, address)

    def note_batch(self, seconds: float, *, commands: int, singles: int) -> None:
        """A batch of bulk requests took so long, and beside it this many single requests were answered."""
        is_beside_many = singles >= REST_SINGLES_A_SECOND_MIN * seconds
        self._rest_seconds_per_command = REST_FACTOR * seconds / commands if is_beside_many else 0.0

    def _check_everything(self, client: _Client, address: str) -> None:
        _check_everything(client)
        self._forget(client, address)

    def _forget(self, client: _Client, address: str) -> None:
        if not len(client) and self._clients.get(address) is client:
            del self._clients[address]

    def _make_room_beside(self, client: _Client) -> None:
        largest = max((each for each in self._clients.values() if each.waiting), key=len, default=None)
        # The one that gains a place must not have more afterwards than the one that loses it.
        if largest is None or len(client) + 1 > len(largest) - 1:
            raise NotExecuted(f"The service is busy: {BULK_MAX} bulk requests are waiting or under way already.")
        _fail(
            largest.waiting.pop(),
            NotExecuted("The service is busy: bulk requests of other clients took this one's place."),
        )


async def _turn_of(client: _Client, deadline: float) -> None:
    loop = asyncio.get_running_loop()
    turn: asyncio.Future[None] = loop.create_future()
    client.waiting.append(turn)
    expired = NotExecuted("The deadline passed before the request's turn came.")
    timer = loop.call_at(deadline, _fail, turn, expired)
    try:
        await turn
    except BaseException:
        # Cancelled in the moment in which its turn came: the next one gets it.
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            _check_everything(client)
        raise
    finally:
        timer.cancel()
        if turn in client.waiting:
            client.waiting.remove(turn)


def _fail(turn: asyncio.Future[None], error: NotExecuted) -> None:
    if not turn.done():
        turn.set_exception(error)


def _check_everything(client: _Client) -> None:
    """A request of the client is over: the one that has waited longest takes its turn."""
    client.under_way -= 1
    while client.waiting:
        turn = client.waiting.popleft()
        if not turn.done():
            client.under_way += 1
            turn.set_result(None)
            return
