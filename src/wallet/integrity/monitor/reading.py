"""Reads what the integrity monitor has found: its stored state, and numbers that can be queried at any time."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg

from wallet.integrity.checks.transfers import STUCK_AFTER
from wallet.integrity.findings import Check
from wallet.integrity.monitor.state import SQL, Lag, MonitorState, StateUnreadable, decode_state
from wallet.postgres.connections import Pool
from wallet.queries.reading import ReadFailed, fetch, fetch_one

BATCHES_READ: Final = 200
"""The most batches read for the worker's lag if no monitor measures it; the result is then a lower bound."""
CHECK_OLD: Final = timedelta(seconds=40)
"""A check runs every 5 seconds, and after a crash another monitor takes over within 25."""


@dataclass(frozen=True, slots=True)
class IntegrityReading:
    """The state as of `now`, PostgreSQL's time, with live numbers."""

    now: datetime
    state: MonitorState
    head_position: int
    unsealed_at: datetime | None
    unpublished_at: datetime | None
    """The time of the oldest event that is not published, unsealed or sealed."""
    stuck_count: int
    stuck_transfer: tuple[str, UUID] | None
    open_dead_letter_count: int
    lag: Lag
    """The worker's lag, from the last incremental check, or queried now if that check is too old."""
    lag_at: datetime

    @property
    def is_starting(self) -> bool:
        """Returns whether some check has never run: no full check was completed, or the only one found an empty
        journal.
        """
        full = self.state.full_result
        if full is None or self.state.incremental is None:
            return True
        if any(check.name not in full.tallies for check in Check):
            # The last full check was made by an earlier version, which had fewer checks.
            return True
        return full.head.position == 0 and self.head_position > 0

    @property
    def lag_seconds(self) -> float:
        """Returns how long the oldest published event without effect has waited."""
        return 0.0 if self.lag.oldest_at is None else max(0.0, (self.lag_at - self.lag.oldest_at).total_seconds())


async def read_integrity(pool: Pool) -> IntegrityReading:
    """Read in one round trip, or two if no monitor is running. Raises ReadFailed."""
    try:
        row = await fetch_one(pool, SQL.read_state, STUCK_AFTER)
    except asyncpg.UndefinedTableError as error:
        # The readiness check reports the missing migration; metrics must not fail because of it.
        raise ReadFailed from error
    assert row is not None, "a statement that begins with a value gives a row"
    try:
        state = decode_state(row["state"] or "{}")
    except StateUnreadable:
        state = MonitorState()
    lag, lag_at = await _lag_of(pool, state, row["now"])
    waiting = [at for at in (row["unpublished_at"], row["unsealed_at"]) if at is not None]
    return IntegrityReading(
        now=row["now"],
        state=state,
        head_position=row["head_position"] or 0,
        unsealed_at=row["unsealed_at"],
        unpublished_at=min(waiting, default=None),
        stuck_count=row["stuck_count"],
        stuck_transfer=(row["from_wallet_id"], row["transfer_id"]) if row["stuck_count"] else None,
        open_dead_letter_count=row["open_dead_letter_count"],
        lag=lag,
        lag_at=lag_at,
    )


async def _lag_of(pool: Pool, state: MonitorState, now: datetime) -> tuple[Lag, datetime]:
    """Returns the worker's lag and its time. Without a worker no monitor runs, and the stored lag is out of date."""
    result = state.incremental
    if result is None:
        return Lag(), now
    if now - result.taken_at <= CHECK_OLD:
        return result.lag, result.taken_at
    last = result.lag.position + BATCHES_READ
    rows = [row for row in await fetch(pool, SQL.unprocessed, result.lag.position, last) if row["is_published"]]
    oldest_at = min((row["oldest_at"] for row in rows if row["oldest_at"] is not None), default=None)
    return Lag(result.lag.position, sum(row["event_count"] for row in rows), oldest_at), now
