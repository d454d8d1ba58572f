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
    from collections.abc import Sequence

    from asyncpg import Record

BATCHES_READ: Final = 200
READS_MAX: Final = 25
"""5,000 batches a look; a worker that does more in five seconds seems to be behind until the next."""
BEYOND_MAX: Final = 10_000
"""Beyond so many batches the number of events is a lower bound."""


async def lag_of(snapshot: Snapshot, position: int) -> Lag:
    """Go on from a position up to which every event had its effect."""
    for _ in range(READS_MAX):
        rows = await snapshot.rows(SQL.unprocessed, position, BATCHES_READ)
        waiting = next((index for index, row in enumerate(rows) if _waits(row)), len(rows))
        position = rows[waiting - 1]["position"] if waiting else position
        if waiting < len(rows):
            return await _behind(snapshot, position, rows)
        if len(rows) < BATCHES_READ:
            break
    return Lag(position)


def _waits(batch: "Record") -> bool:
    return bool(batch["event_count"] or not batch["is_published"])


async def _behind(snapshot: Snapshot, position: int, rows: "Sequence[Record]") -> Lag:
    published = [row for row in rows if row["is_published"]]
    count = sum(row["event_count"] for row in published)
    oldest: list[datetime] = [row["oldest_at"] for row in published if row["oldest_at"] is not None]
    if len(rows) == BATCHES_READ:
        [beyond] = await snapshot.rows(SQL.published_beyond, rows[-1]["position"], BEYOND_MAX)
        count += beyond["event_count"]
    return Lag(position, count, min(oldest, default=None))
