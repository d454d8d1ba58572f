"""Pruning of the audit trail: deletes old rows in slices, while the system is in use, and records each slice.

The record and the deletion are one statement: the database's triggers delete the rows that the record names, and refuse
any other deletion (migration 0008). Audit ids are UUIDv7, so the oldest rows are found by primary key. After a crash or
Ctrl-C, some slices are deleted and recorded, and all other rows still exist; the next run continues with them.
"""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg
import structlog

from wallet.domain.identifiers import BUCKET_COUNT
from wallet.postgres.connections import Connection
from wallet.runtime.loop import retried
from wallet.trail.records import SQL

SLICE_ROWS_MAX: Final = 5_000
"""Bounds the locks of a slice, and the amount of write-ahead log that it writes."""
SLICE_ATTEMPTS_MAX: Final = 5
"""A slice is rolled back if a row is inserted into its range at the same time. It is then tried again."""
CLOCK_DIFFERENCE_MAX: Final = timedelta(days=1)
"""How much the api's clock, which sets the time in the id, may differ from PostgreSQL's, which sets the row's time."""

_log = structlog.get_logger()


async def prune_trail_rows(connection: Connection, before: datetime, *, actor: str, reason: str) -> int:
    """Delete the rows of the audit trail that are older than `before`, with records. Returns how many were deleted.

    Raises asyncpg.PostgresError.
    """
    bound = _lowest_id_at(before + CLOCK_DIFFERENCE_MAX)
    _log.info("audit_trail_pruning_started", before=before.isoformat(), actor=actor, reason=reason)
    deleted = 0
    for bucket in range(BUCKET_COUNT):
        slice_of = (bucket, actor, reason, before, bound, SLICE_ROWS_MAX)
        while count := await _prune_slice(connection, slice_of):
            deleted += count
    _log.info("audit_trail_pruned", before=before.isoformat(), actor=actor, reason=reason, row_count=deleted)
    return deleted


async def _prune_slice(connection: Connection, arguments: tuple[object, ...]) -> int:
    async def run() -> int:
        return await connection.fetchval(SQL.prune_trail_slice, *arguments) or 0

    return await retried(
        run,
        attempts_max=SLICE_ATTEMPTS_MAX,
        errors=(asyncpg.SerializationError,),
    )


def _lowest_id_at(moment: datetime) -> UUID:
    """Returns the smallest UUIDv7 of a millisecond. The first 48 bits of a UUIDv7 are its time."""
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return UUID(int=milliseconds << 80)
