"""Pruning of the audit trail: old rows are deleted in slices, beside a running system, and each slice leaves a record.

The record and its deletion are one statement: the database's triggers delete what the record names, and refuse any
other deletion (migration 0008). Audit ids are UUIDv7, so the oldest rows are found by primary key. After a crash, or
Ctrl-C, whole slices are gone with their records and the rest is there; the next run continues.
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
"""Bounds a slice's locks and its share of the write-ahead log."""
SLICE_ATTEMPTS_MAX: Final = 5
"""A row that is written into the range of a slice at the same moment rolls the slice back; it is tried again."""
CLOCK_DIFFERENCE_MAX: Final = timedelta(days=1)
"""How far an api's clock, which the id is made by, may be from PostgreSQL's, which the row's time is."""

_log = structlog.get_logger()


async def prune_trail_rows(connection: Connection, before: datetime, *, actor: str, reason: str) -> int:
    """Delete the rows of the audit trail older than `before`, and record it. Returns how many were deleted.

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
    """The smallest UUIDv7 of a millisecond: its first 48 bits are the time."""
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return UUID(int=milliseconds << 80)
