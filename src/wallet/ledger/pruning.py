"""Pruning: old audit rows may go, slice by slice, beside a running system. Nothing else ever may.

Audit ids are UUIDv7, so the oldest rows are found by primary key. A slice is one transaction: a crash, or Ctrl-C,
leaves whole slices gone and the rest there, and the next run goes on.
"""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from wallet.domain.identifiers import BUCKET_COUNT
from wallet.ledger.statements import SQL

if TYPE_CHECKING:
    from wallet.postgres.connections import Connection

SLICE_ROWS_MAX: Final = 5_000
"""Bounds a slice's locks and its share of the write-ahead log."""
CLOCK_DIFFERENCE_MAX: Final = timedelta(days=1)
"""How far an api's clock, which the id is made by, may be from PostgreSQL's, which the row's time is."""


async def prune_audit_rows(connection: "Connection", before: datetime) -> int:
    """Delete the audit rows older than `before` and return how many. Raises asyncpg.PostgresError."""
    bound = _lowest_id_at(before + CLOCK_DIFFERENCE_MAX)
    deleted = 0
    for bucket in range(BUCKET_COUNT):
        is_full = True
        while is_full:
            count = await _prune_slice(connection, bucket, bound, before)
            deleted += count
            is_full = count == SLICE_ROWS_MAX
    return deleted


async def _prune_slice(connection: "Connection", bucket: int, bound: UUID, before: datetime) -> int:
    async with connection.transaction():
        await connection.execute(SQL.allow_pruning)
        tag = await connection.execute(SQL.prune_audit_rows, bucket, bound, before, SLICE_ROWS_MAX)
    return int(tag.removeprefix("DELETE "))


def _lowest_id_at(moment: datetime) -> UUID:
    """The smallest UUIDv7 of a millisecond: its first 48 bits are the time."""
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return UUID(int=milliseconds << 80)
