"""What the auditor has found, as anyone may read it: its stored state, and beside it what can be asked at any time."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from wallet.auditor.state import State, StateUnreadable, decode_state
from wallet.auditor.tenure import SQL
from wallet.queries.reading import ReadFailed, fetch_one
from wallet.verification.transfers import STUCK_AFTER

if TYPE_CHECKING:
    from wallet.postgres.connections import Pool


@dataclass(frozen=True, slots=True)
class Reading:
    """The state as of `now`, PostgreSQL's time, with live numbers."""

    now: datetime
    state: State
    head_position: int
    unpublished_at: datetime | None
    stuck_count: int
    stuck_transfer: tuple[str, UUID] | None
    open_letter_count: int


async def read_audit(pool: "Pool") -> Reading:
    """One round trip. Raises ReadFailed."""
    try:
        row = await fetch_one(pool, SQL.read_state, STUCK_AFTER)
    except asyncpg.UndefinedTableError as error:
        # Readiness says which migration is missing; metrics must not fail for it.
        raise ReadFailed from error
    assert row is not None, "a statement that begins with a value gives a row"
    try:
        state = decode_state(row["state"] or "{}")
    except StateUnreadable:
        state = State()
    waiting = [at for at in (row["unpublished_at"], row["unsealed_at"]) if at is not None]
    return Reading(
        now=row["now"],
        state=state,
        head_position=row["head_position"] or 0,
        unpublished_at=min(waiting, default=None),
        stuck_count=row["stuck_count"],
        stuck_transfer=(row["from_wallet_id"], row["transfer_id"]) if row["stuck_count"] else None,
        open_letter_count=row["open_letter_count"],
    )
