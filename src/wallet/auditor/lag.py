"""How far the worker is behind: the events that were published and had no effect yet, over either transport.

The inbox says what had its effect, and a dead letter is open elsewhere. A position is remembered up to which nothing
is missing, and moves on over batches that are whole; so a look reads what is new, and what still waits.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Final

from wallet.auditor.state import Lag
from wallet.auditor.tenure import SQL
from wallet.verification.snapshot import Snapshot

if TYPE_CHECKING:
    from asyncpg import Record

BATCHES_READ: Final = 200
READS_MAX: Final = 25
"""5,000 batches a look; beyond them the number of events is a lower bound."""


async def lag_of(snapshot: Snapshot, position: int) -> Lag:
    """Go on from a position up to which every event had its effect; count those after it that had none."""
    last, is_whole, count = position, True, 0
    oldest: list[datetime] = []
    for _ in range(READS_MAX):
        rows = await snapshot.rows(SQL.unprocessed, last, BATCHES_READ)
        for row in rows:
            last = row["position"]
            is_whole = is_whole and not _waits(row)
            if is_whole:
                position = last
            elif row["is_published"] and row["event_count"]:
                count += row["event_count"]
                oldest.append(row["oldest_at"])
        if len(rows) < BATCHES_READ:
            break
    return Lag(position, count, min(oldest, default=None))


def _waits(batch: "Record") -> bool:
    return bool(batch["event_count"] or not batch["is_published"])
