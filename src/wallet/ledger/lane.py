"""A lane: one connection that commits batch after batch and handles every failure.

| what PostgreSQL reports               | what the lane does                                                      |
|---------------------------------------|-------------------------------------------------------------------------|
| deadlock, serialization, conflict     | retry the whole batch after a random pause, a limited number of times   |
| lock time-out (another session)       | retry without the locked wallets; their requests go to the side lane    |
| connection lost or silent, even at    | drop the connection and retry the same batch, with the same keys, on a  |
| COMMIT (outcome unknown)              | new one, until no client waits any more                                 |
| no room, statement cancelled, or a    | answer 503 for the batch                                                |
| clock too far from this process's     |                                                                         |
| anything else                         | halve the batch until the failing request is alone, and answer it 500;  |
|                                       | the other requests are executed                                         |

After a crash the batch is either committed as a whole or not at all. A lane keeps no other state.

The side lane has one connection for requests on wallets that another session has locked, so that no other request waits
for that lock. Its requests wait in order of arrival for each wallet, until their deadlines. New requests on a locked
wallet go directly to the side lane as long as others wait there for that wallet.
"""

import asyncio
import random
import time
from asyncio import sleep
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Final

import structlog

from wallet.domain.identifiers import WalletId
from wallet.ledger.deciding import KnownWallets
from wallet.ledger.gathering import WAITING_PER_WALLET_MAX, first_batch_of
from wallet.ledger.requests import CommandFailed, OutcomeUnknown, Phase, Render, Request
from wallet.ledger.transaction import BatchMode, ClockDiffers, run_batch
from wallet.postgres.connections import LOCK_MS
from wallet.postgres.errors import Failure, failure_of
from wallet.postgres.session import Session
from wallet.postgres.writing import WriteConflict
from wallet.runtime.loop import Backoff

RETRIES_MAX: Final = 20
"""A deadlock is retried up to this many failures of a batch. Locks are taken in sorted order, so even one is rare."""
RETRY_SECONDS_MAX: Final = 0.05
RECONNECT_SECONDS_FIRST: Final = 0.05
RECONNECT_SECONDS_MAX: Final = 1.0

Defer = Callable[[list[Request], set[WalletId]], None]
"""Accepts the requests that must wait, and the wallets that another session has locked."""

log = structlog.get_logger()
RETRY_SECONDS_FIRST: Final = 0.01
SIDE_LANE_RETRY_SECONDS_MAX: Final = 0.2
SIDE_LOCK_MS: Final = 50
"""Short, because this lane waits for a lock only if another transaction is creating the wallet at that moment."""


class Lane:
    """One connection, which is opened when it is first needed and dropped when its state is unknown."""

    def __init__(self, dsn: str, *, name: str, render: Render, known: KnownWallets, lock_ms: int = LOCK_MS) -> None:
        # An api of this version may begin before the migration, as long as its statements do not need it.
        self._session = Session(dsn, application_name=f"wallet api {name}", lock_ms=lock_ms, needs_migrations=False)
        self._name = name
        self._render = render
        self._known = known

    async def process(self, batch: list[Request], *, mode: BatchMode, defer: Defer) -> None:
        """Complete or fail every request of the batch, or pass it to `defer`. Never raises infrastructure errors."""
        attempt = 0
        reconnecting = Backoff(seconds_min=RECONNECT_SECONDS_FIRST, seconds_max=RECONNECT_SECONDS_MAX)
        while waiting := _still_waiting(batch):
            try:
                connection = await self._session.connection()
                # A deadline may pass while connecting. A request that was then answered `not_executed` must not run.
                if not (waiting := _still_waiting(batch)):
                    return None
                started = time.monotonic()
                result = await run_batch(connection, waiting, render=self._render, mode=mode, known=self._known)
            except Exception as error:  # noqa: BLE001 - a lane survives every failure; see the table above
                failure = _meaning_of(error)
                attempt += 1
                await self._clean_up(failure)
                _note(failure, error, attempt, len(waiting))
                if failure is Failure.LOCKED and not mode.skip_locked:
                    mode = replace(mode, skip_locked=True, may_insert_wallets=False)
                elif failure is Failure.RECONNECT:
                    await reconnecting.wait()
                elif failure is Failure.RETRY and attempt <= RETRIES_MAX:
                    await sleep(random.uniform(0, RETRY_SECONDS_MAX))
                else:
                    why = str(error) if isinstance(error, ClockDiffers) else "The database is overloaded."
                    return await self._divide(waiting, failure, why, mode=mode, defer=defer)
            else:
                ms = round((time.monotonic() - started) * 1000, 1)
                commands = sum(len(request.commands) for request, _ in result.completed)
                log.info("batch_committed", lane=self._name, requests=len(result.completed), commands=commands, ms=ms)
                for request, completed in result.completed:
                    request.complete(completed)
                if result.deferred:
                    defer(result.deferred, result.locked_elsewhere)
                return None
        return None

    async def _divide(
        self, waiting: list[Request], failure: Failure, why: str, *, mode: BatchMode, defer: Defer
    ) -> None:
        """Handle a batch that can't be committed as it is: halve it, or end its only request."""
        if failure in (Failure.OVERLOADED, Failure.RETRY):
            for request in waiting:
                request.refuse(why)
        elif len(waiting) > 1:
            middle = len(waiting) // 2
            await self.process(waiting[:middle], mode=mode, defer=defer)
            await self.process(waiting[middle:], mode=mode, defer=defer)
        elif failure is Failure.LOCKED:
            defer(waiting, set(waiting[0].wallet_ids))
        else:
            request = waiting[0]
            is_unknown = request.phase is Phase.UNKNOWN
            request.fail(OutcomeUnknown("The answer to a COMMIT was lost.") if is_unknown else CommandFailed())

    async def _clean_up(self, failure: Failure) -> None:
        """Roll back the open transaction, or drop the connection if it is lost."""
        if failure is Failure.RECONNECT:
            self._session.drop()
        else:
            await self._session.roll_back()

    def close(self) -> None:
        """Close the connection, without waiting for a server that does not answer."""
        self._session.drop()


def _still_waiting(batch: list[Request]) -> list[Request]:
    return [request for request in batch if not request.is_over]


def _meaning_of(error: Exception) -> Failure:
    match error:
        case WriteConflict():
            return Failure.RETRY
        case ClockDiffers():
            return Failure.OVERLOADED
        case _:
            return failure_of(error)


def _note(failure: Failure, error: Exception, attempt: int, request_count: int) -> None:
    fields = {
        "failure": failure.name.lower(),
        "attempt": attempt,
        "requests": request_count,
        "error": repr(error),
    }
    if failure is Failure.CULPRIT:
        log.error("batch_failed", exc_info=error, **fields)
    else:
        log.warning("batch_failed", **fields)


class SideLane:
    """Retries its waiting requests, and skips wallets that are still locked."""

    def __init__(self, dsn: str, *, render: Render, mode: BatchMode, known: KnownWallets) -> None:
        self._lane = Lane(dsn, name="side lane", render=render, known=known, lock_ms=SIDE_LOCK_MS)
        self._mode = replace(mode, skip_locked=True)
        self._waiting: list[Request] = []
        self._locked_elsewhere: set[WalletId] = set()
        self._count_per_wallet: Counter[WalletId] = Counter()
        self._changed = asyncio.Event()
        self._stopping = False

    def __len__(self) -> int:
        return len(self._waiting)

    def must_take(self, request: Request) -> bool:
        """Returns whether the request must wait in the side lane, behind other requests on a locked wallet."""
        return not self._locked_elsewhere.isdisjoint(request.wallet_ids)

    def add(self, requests: list[Request], locked_elsewhere: set[WalletId]) -> None:
        """Add requests at the end. A request is refused if too many already wait for one of its wallets."""
        self._locked_elsewhere |= locked_elsewhere
        for request in requests:
            if self._is_full_for(request):
                request.refuse("The wallet is locked by another transaction, and too many requests wait for it.")
            else:
                self._waiting.append(request)
                self._count_per_wallet.update(request.wallet_ids)
        self._changed.set()

    def _is_full_for(self, request: Request) -> bool:
        return any(self._count_per_wallet[wallet_id] >= WAITING_PER_WALLET_MAX for wallet_id in request.wallet_ids)

    def stop(self) -> None:
        """Let `run` return as soon as no request waits in the side lane."""
        self._stopping = True
        self._changed.set()

    async def run(self) -> None:
        """Run until the lane is stopped and has no waiting requests."""
        backoff = Backoff(seconds_min=RETRY_SECONDS_FIRST, seconds_max=SIDE_LANE_RETRY_SECONDS_MAX)
        try:
            while self._waiting or not self._stopping:
                if not self._waiting:
                    self._changed.clear()
                    await self._changed.wait()
                    backoff.reset()
                elif await self._try_all():
                    backoff.reset()
                else:
                    await backoff.wait()
        finally:
            self._lane.close()

    async def _try_all(self) -> bool:
        """Try the oldest requests once. Returns whether any of them was completed or failed."""
        batch = first_batch_of(self._waiting)
        deferred: list[Request] = []
        locked_elsewhere: set[WalletId] = set()

        def defer(requests: list[Request], wallet_ids: set[WalletId]) -> None:
            deferred.extend(requests)
            locked_elsewhere.update(wallet_ids)

        if batch:
            await self._lane.process(batch, mode=self._mode, defer=defer)
        tried = set(map(id, batch))
        self._waiting = [request for request in self._waiting if not request.is_over]
        untried = [request.wallet_ids for request in self._waiting if id(request) not in tried]
        self._locked_elsewhere = locked_elsewhere | self._locked_elsewhere.intersection(chain.from_iterable(untried))
        self._count_per_wallet = Counter(wallet_id for request in self._waiting for wallet_id in request.wallet_ids)
        return len(deferred) < len(batch)
