"""Finds the time up to which every change has been counted, for any transport and any number of workers.

An event is counted if its row in the inbox (`processed_events`) is a success. The journal is followed in order up to
the first event that is not counted. Its positions are not ordered by time, because a batch may be sealed long after
others that were committed later. So a time is first set as a target. It is reached once everything that the journal
contained at that time has been counted (see the migration that creates `stats_progress`). The result is a lower bound
that guarantees: every change that was committed before `as_of` is counted, unless its dead letter was discarded. An
event that waits as a dead letter stops the progress until it is replayed or discarded.

Each worker tries this every INTERVAL_SECONDS, and one at a time succeeds. Once everything is counted, it is tried when
this worker has handled a group, or after IDLE_SECONDS. A crash between any two statements leaves the row unchanged.
Bounds: BATCHES_MAX batches are checked in one transaction.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Final

from asyncpg import Record

from wallet.postgres.connections import Connection
from wallet.postgres.session import Session
from wallet.postgres.statements import load_statements
from wallet.runtime.loop import unless_stopped
from wallet.worker.handle import APPLICATION, run_loop

INTERVAL_SECONDS: Final = 0.5
IDLE_SECONDS: Final = 4.0
CATCH_UP_SECONDS: Final = 0.05
"""The pause while more batches remain than one transaction checks, for example after an upgrade."""
BATCHES_MAX: Final = 100

_SQL: Final = load_statements("wallet.worker", "progress.sql")


@dataclass(frozen=True, slots=True)
class Target:
    """A time, and the end of the journal at that time: batches up to `seq`, and up to `position` once all of them are
    sealed.
    """

    at: datetime
    seq: int
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far everything is counted: up to a position of the journal, and a time."""

    position: int
    as_of: datetime | None
    target: Target | None


@dataclass(frozen=True, slots=True)
class JournalEnds:
    """What the journal contains, in a snapshot that was taken after `now`."""

    now: datetime
    head: int
    first_unsealed: int | None
    last_seq: int


def advance(progress: Progress, ends: JournalEnds) -> Progress:
    """Returns the progress with its time advanced as far as its position allows."""
    if progress.as_of is not None and progress.as_of > ends.now:
        # The clock was put back, for example by a failover to another server, so this time is in the future.
        progress = replace(progress, as_of=None)
    target = progress.target
    if target is None or target.at > ends.now:
        target = Target(ends.now, ends.last_seq)
    target = _sealed(target, ends)
    if _is_reached(target, progress.position):
        progress = replace(progress, as_of=target.at)
        target = _sealed(Target(ends.now, ends.last_seq), ends)
        if _is_reached(target, progress.position):
            return replace(progress, as_of=target.at, target=None)
    return replace(progress, target=target)


def _sealed(target: Target, ends: JournalEnds) -> Target:
    """Returns the target with its position, once every batch that belongs to it is sealed."""
    if target.position is None and (ends.first_unsealed is None or ends.first_unsealed > target.seq):
        return replace(target, position=ends.head)
    return target


def _is_reached(target: Target, position: int) -> bool:
    return target.position is not None and position >= target.position


async def run_progress(dsn: str, handled: asyncio.Event, stop: asyncio.Event) -> None:
    """Keep `stats_progress` current until `stop` is set; the database may be unavailable at any time.

    `handled` is set each time this worker has handled a group, and is cleared here.
    """
    async with Session(dsn, application_name=APPLICATION) as session:
        await run_loop(_Turns(session, handled, stop), session, stop)


class _Turns:
    """Advances the progress again and again, for one worker."""

    def __init__(self, session: Session, handled: asyncio.Event, stop: asyncio.Event) -> None:
        self._session = session
        self._handled = handled
        self._stop = stop
        self._pause_seconds = INTERVAL_SECONDS

    async def take_turn(self) -> None:
        connection = await self._session.connection()
        self._handled.clear()
        result = await advance_stored(connection, timedelta(seconds=self._pause_seconds / 2))
        if result is AdvanceResult.ALL_COUNTED:
            self._pause_seconds = IDLE_SECONDS
            await unless_stopped(self._wait_for_group(), self._stop)
        else:
            self._pause_seconds = CATCH_UP_SECONDS if result is AdvanceResult.IS_BEHIND else INTERVAL_SECONDS
            await unless_stopped(asyncio.sleep(self._pause_seconds), self._stop)

    async def _wait_for_group(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(IDLE_SECONDS):
                await self._handled.wait()
                self._pause_seconds = INTERVAL_SECONDS

    async def stand_down(self) -> None:
        """Do nothing: no state is kept between two turns."""


class AdvanceResult(Enum):
    """The result of one attempt."""

    ALL_COUNTED = auto()
    """Everything that the journal contains is counted."""
    IS_BEHIND = auto()
    """More batches remain than one transaction checks."""
    IS_WAITING = auto()
    """An event is not counted yet, or another worker has just tried this."""


async def advance_stored(connection: Connection, interval: timedelta = timedelta()) -> AdvanceResult:
    """Advance the stored progress, unless that was done within the interval."""
    async with connection.transaction():
        row = await connection.fetchrow(_SQL.lock_progress, interval)
        if row is None:
            return AdvanceResult.IS_WAITING
        ends = await connection.fetchrow(_SQL.read_journal_ends)
        assert ends is not None, "the only row of journal_head is missing"
        batches = await connection.fetchrow(_SQL.read_next_batches, row["position"], BATCHES_MAX)
        assert batches is not None
        position = _counted_up_to(row["position"], batches)
        progress = advance(
            Progress(position, row["as_of"], _target_of(row)),
            JournalEnds(row["now"], ends["head"], ends["first_unsealed"], ends["last_seq"] or 0),
        )
        target = progress.target
        await connection.execute(
            _SQL.save_progress,
            progress.position,
            progress.as_of,
            target.at if target else None,
            target.seq if target else None,
            target.position if target else None,
        )
        if target is None:
            return AdvanceResult.ALL_COUNTED
        is_behind = batches["first_uncounted"] is None and position < ends["head"]
        return AdvanceResult.IS_BEHIND if is_behind else AdvanceResult.IS_WAITING


def _counted_up_to(position: int, batches: Record) -> int:
    if batches["first_uncounted"] is not None:
        return int(batches["first_uncounted"]) - 1
    return position if batches["last"] is None else int(batches["last"])


def _target_of(row: Record) -> Target | None:
    return None if row["target_at"] is None else Target(row["target_at"], row["target_seq"], row["target_position"])
