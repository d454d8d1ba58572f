"""Recovery: drives the stepwise transfers that have lost their driver, and lets none of them delay another.

It walks over all unfinished transfers, oldest first, a page at a time: a page begins where the one before ended, and
the walk begins again at its end. Each transfer is an attempt of its own, bounded in time, with many of them side by
side. One that fails waits longer and longer for its next attempt, and these later attempts leave room for the first
attempts of others.

How often a transfer has failed is remembered in the process, not in the database: it decides only how soon to try
again, and a table would be written to for every failure, when the database may be what fails. So after a restart each
transfer is tried at once; the bounds on pages and attempts keep that from being a stampede. Several processes may
drive one transfer: the receiver's decision is stored once.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import structlog

from wallet.domain.identifiers import TransferId
from wallet.ledger.answers import Answer, OutcomeUnknown
from wallet.ledger.statements import SQL
from wallet.postgres.connections import Pool
from wallet.postgres.errors import DATABASE_ERRORS

STUCK_AFTER: Final = timedelta(seconds=5)
"""A transfer untouched for so long has lost its driver."""
ROUND_SECONDS: Final = 1.0
PAGE_MAX: Final = 200
ROUND_MAX: Final = 2000
"""Transfers that one round reads; the next round goes on behind them."""
ATTEMPTS_MAX: Final = 64
"""Side by side, in one process."""
REPEATED_ATTEMPTS_MAX: Final = ATTEMPTS_MAX // 2
"""Of these, attempts on transfers that have failed before."""
ATTEMPT_SECONDS_FIRST: Final = 1.0
"""An attempt that needs longer, on a busy system, has twice as long each time, up to the deadline of a request."""
BACKOFF_SECONDS_MAX: Final = 60.0
FAILURES_LOGGED_FROM: Final = 3
"""The first failures may be a database that restarts; from here on, the 3rd, 6th, 12th, 24th … are logged."""
REMEMBERED_MAX: Final = 10_000
"""Failed transfers; those beyond are tried as if they were new."""

Drive = Callable[[Any, float], Awaitable[Answer]]
"""Drives the transfer of a row to its end before a deadline (in the event loop's clock), or raises OutcomeUnknown."""

log = structlog.get_logger()


class _Place(NamedTuple):
    """Where the walk is: behind the transfer with these values."""

    updated_at: datetime
    transfer_id: UUID


_BEGINNING: Final = _Place(datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))


@dataclass(frozen=True, slots=True)
class _Failures:
    """How often the attempts on a transfer have failed in a row, and when (loop's clock) the next one is due."""

    count: int
    due_seconds: float


class Recovery:
    """The recovery of one process; `run` it until `stop`."""

    def __init__(self, pool: Pool, drive: Drive, *, deadline_seconds: float) -> None:
        self._pool = pool
        self._drive = drive
        self._deadline_seconds = deadline_seconds
        self._stopping = asyncio.Event()
        self._free = asyncio.Semaphore(ATTEMPTS_MAX)
        self._under_way: set[TransferId] = set()
        self._repeated_count = 0
        self._failures: dict[TransferId, _Failures] = {}
        self._seen: set[TransferId] = set()
        self._place = _BEGINNING

    def stop(self) -> None:
        """Let `run` return after the attempts under way."""
        self._stopping.set()

    async def run(self) -> None:
        """Until stopped: try to end every transfer that nobody has touched for a while."""
        async with asyncio.TaskGroup() as tasks:
            while not self._stopping.is_set():
                try:
                    await self._walk(tasks)
                except DATABASE_ERRORS as error:
                    log.warning("transfer_recovery_waits", error=repr(error))
                # Jittered, so that several processes fall out of step and find different transfers to drive.
                await self._wait(ROUND_SECONDS * random.uniform(0.8, 1.2))

    async def _walk(self, tasks: asyncio.TaskGroup) -> None:
        """One round: go on from the last place, to the end of what is unfinished or to the round's limit."""
        for _ in range(ROUND_MAX // PAGE_MAX):
            rows = await self._pool.fetch(SQL.stuck_transfers, STUCK_AFTER, *self._place, PAGE_MAX)
            for row in rows:
                await self._attempt(row, tasks)
                if self._stopping.is_set():
                    return
                self._place = _Place(row["updated_at"], row["transfer_id"])
            if len(rows) < PAGE_MAX:
                self._begin_again()
                return

    def _begin_again(self) -> None:
        """The whole walk is done: what it did not meet has ended, and is forgotten."""
        self._place = _BEGINNING
        self._failures = {each: failures for each, failures in self._failures.items() if each in self._seen}
        self._seen.clear()

    async def _attempt(self, row: Any, tasks: asyncio.TaskGroup) -> None:
        """Begin an attempt on this transfer, if it is due; waits for room if it is the first."""
        transfer_id = row["transfer_id"]
        failures = self._failures.get(transfer_id)
        if failures is not None:
            self._seen.add(transfer_id)
            now = asyncio.get_running_loop().time()
            if now < failures.due_seconds or self._repeated_count >= REPEATED_ATTEMPTS_MAX:
                return
        if transfer_id in self._under_way or not await self._has_room():
            return
        self._under_way.add(transfer_id)
        self._repeated_count += failures is not None
        tasks.create_task(self._try_to_end(row, failures.count if failures else 0))

    async def _has_room(self) -> bool:
        """Wait until one more attempt may begin; False if recovery is stopping by then."""
        await self._free.acquire()
        if self._stopping.is_set():
            self._free.release()
            return False
        return True

    async def _try_to_end(self, row: Any, failed_count: int) -> None:
        transfer_id = row["transfer_id"]
        seconds = min(ATTEMPT_SECONDS_FIRST * 2 ** min(failed_count, 10), self._deadline_seconds)
        try:
            answer = await self._drive(row, asyncio.get_running_loop().time() + seconds)
        except OutcomeUnknown as error:
            self._note_failure(transfer_id, failed_count + 1, error)
        else:
            self._failures.pop(transfer_id, None)
            log.info("transfer_recovered", transfer_id=str(transfer_id), status=answer.status)
        finally:
            self._under_way.discard(transfer_id)
            self._repeated_count -= failed_count > 0
            self._free.release()

    def _note_failure(self, transfer_id: TransferId, count: int, error: OutcomeUnknown) -> None:
        backoff_seconds = min(2.0 ** min(count - 1, 10), BACKOFF_SECONDS_MAX) * random.uniform(0.8, 1.2)
        if transfer_id in self._failures or len(self._failures) < REMEMBERED_MAX:
            due_seconds = asyncio.get_running_loop().time() + backoff_seconds
            self._failures[transfer_id] = _Failures(count, due_seconds)
            self._seen.add(transfer_id)
        rounds, rest = divmod(count, FAILURES_LOGGED_FROM)
        if not rest and rounds & (rounds - 1) == 0:
            log.warning(
                "transfer_recovery_failed",
                transfer_id=str(transfer_id),
                attempts=count,
                next_attempt_seconds=round(backoff_seconds, 1),
                error=repr(error),
            )

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
