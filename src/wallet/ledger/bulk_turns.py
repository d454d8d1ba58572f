"""The turns of bulk requests: each client address has at most two under way, and its others wait in order of arrival.

A process keeps at most BULK_MAX bulk requests, waiting or under way, because each one takes up to a megabyte of memory.
One address may use all of these places while no other address needs one. When all places are taken and an address with
fewer requests sends one, the address with the most requests loses its newest waiting request, which is not executed.

A batch of a thousand operations keeps the processor busy for long stretches. So while there are many single requests,
the bulk requests of an address are paced: in the long run, the time between the starts of two of them is at least
PACE_FACTOR times the time that the operations of the first one take. Without this, one client that sends bulk requests
all the time would take most of the throughput of the others. An address that has sent none for a while may begin two
at once. Bulk requests of other addresses do not wait for them.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from wallet.ledger.requests import NotExecuted
from wallet.runtime.loop import TIMER_SLACK_SECONDS

BULK_MAX: Final = 64
BULK_UNDER_WAY_MAX: Final = 2
"""For one address: while one request commits, the next one is ready."""
PACE_FACTOR: Final = 8
PACE_DEADLINE_SHARE_MAX: Final = 0.7
"""The longest pace, as a share of the time until the deadline: the only waiting request of an address gets its turn."""
PACED_SINGLES_A_SECOND_MIN: Final = 20


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request that waits for its turn."""

    turn: asyncio.Future[None]
    pace_seconds: float


@dataclass(slots=True)
class _Client:
    """The bulk requests of one address. It is removed when it has no requests and the next one need not be paced.

    `paced_until_seconds`, in the event loop's clock, is the time from which the next request is no longer early. One
    request may begin early, by its own pace.
    """

    under_way: int = 0
    waiting: deque[_Waiting] = field(default_factory=deque)
    paced_until_seconds: float = 0.0
    timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return self.under_way + len(self.waiting)

    def begin(self, now_seconds: float, pace_seconds: float) -> None:
        self.under_way += 1
        self.paced_until_seconds = max(self.paced_until_seconds, now_seconds) + pace_seconds


class BulkTurns:
    """Decides when a bulk request may join the queue of the lanes."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client] = {}
        self._count = 0
        self._pace_seconds_per_command = 0.0

    @property
    def waiting_count(self) -> int:
        """How many bulk requests wait for their turn."""
        return sum(len(client.waiting) for client in self._clients.values())

    @asynccontextmanager
    async def turn(self, address: str, deadline: float, command_count: int = 1) -> AsyncIterator[None]:
        """Wait for the turn of one request of this address, which lasts until the block ends.

        Raises NotExecuted if there is no room, or if the turn does not come before the deadline (in the event loop's
        clock).
        """
        loop = asyncio.get_running_loop()
        client = self._clients.get(address)
        if client is None:
            client = _Client()
        if self._count >= BULK_MAX:
            self._make_room_beside(client)
        self._clients[address] = client
        self._count += 1
        pace_seconds_max = PACE_DEADLINE_SHARE_MAX * max(0.0, deadline - loop.time())
        waiting = _Waiting(loop.create_future(), min(self._pace_seconds_per_command * command_count, pace_seconds_max))
        client.waiting.append(waiting)
        try:
            _begin_those_that_may(client)
            await _turn_of(waiting, client, deadline)
            try:
                yield
            finally:
                client.under_way -= 1
                # What it cost is known only now if no batch was measured before it began.
                pace_seconds = min(self._pace_seconds_per_command * command_count, pace_seconds_max)
                client.paced_until_seconds += max(0.0, pace_seconds - waiting.pace_seconds)
                _begin_those_that_may(client)
        finally:
            self._count -= 1
            if client.paced_until_seconds <= loop.time():
                self._forget(client, address)
            else:
                loop.call_at(client.paced_until_seconds + TIMER_SLACK_SECONDS, self._forget, client, address)

    def note_batch(self, seconds: float, *, commands: int, singles: int) -> None:
        """Record how long a batch of bulk requests took, and how many single requests were answered meanwhile."""
        is_beside_many = singles >= PACED_SINGLES_A_SECOND_MIN * seconds
        self._pace_seconds_per_command = PACE_FACTOR * seconds / commands if is_beside_many else 0.0

    def _forget(self, client: _Client, address: str) -> None:
        """Remove a client that has no requests, if its next request may begin at once."""
        is_paced = client.paced_until_seconds > asyncio.get_running_loop().time()
        if not len(client) and not is_paced and self._clients.get(address) is client:
            del self._clients[address]

    def _make_room_beside(self, client: _Client) -> None:
        largest = max((each for each in self._clients.values() if each.waiting), key=len, default=None)
        # The address that gains a place must not have more requests afterwards than the address that loses one.
        if largest is None or len(client) + 1 > len(largest) - 1:
            raise NotExecuted(f"The service is busy: {BULK_MAX} bulk requests are waiting or under way already.")
        _fail(
            largest.waiting.pop().turn,
            NotExecuted("The service is busy: bulk requests of other clients took this one's place."),
        )


async def _turn_of(waiting: _Waiting, client: _Client, deadline: float) -> None:
    expired = NotExecuted("The deadline passed before the request's turn came.")
    timer = asyncio.get_running_loop().call_at(deadline, _fail, waiting.turn, expired)
    try:
        await waiting.turn
    except BaseException:
        # If the request was cancelled at the moment when its turn came, the next request gets the turn.
        if waiting.turn.done() and not waiting.turn.cancelled() and waiting.turn.exception() is None:
            client.under_way -= 1
            _begin_those_that_may(client)
        raise
    finally:
        timer.cancel()
        if waiting in client.waiting:
            client.waiting.remove(waiting)


def _fail(turn: asyncio.Future[None], error: NotExecuted) -> None:
    if not turn.done():
        turn.set_exception(error)


def _begin_those_that_may(client: _Client) -> None:
    """Give turns to the requests that have waited longest, and set a timer for when the next one may begin."""
    loop = asyncio.get_running_loop()
    while client.waiting and client.under_way < BULK_UNDER_WAY_MAX:
        first = client.waiting[0]
        if not first.turn.done():
            # A request may begin one pace early, so that an address may begin two at once.
            begins_at_seconds = client.paced_until_seconds - first.pace_seconds
            if begins_at_seconds > loop.time():
                if client.timer is not None:
                    client.timer.cancel()
                client.timer = loop.call_at(begins_at_seconds + TIMER_SLACK_SECONDS, _begin_those_that_may, client)
                return
            client.begin(loop.time(), first.pace_seconds)
            first.turn.set_result(None)
        client.waiting.popleft()
