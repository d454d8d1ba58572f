"""A wallet's events, newest first, in the wallet's own order."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from wallet.domain.identifiers import WalletId, bucket_of
from wallet.postgres.connections import Pool
from wallet.postgres.statements import load_statements
from wallet.queries.reading import fetch

VERSION_MAX: Final = 2**63 - 1

_STATEMENTS: Final = load_statements("wallet.queries", "queries.sql")
_HISTORY: Final[str] = _STATEMENTS.history
_HISTORY_BEFORE: Final[str] = _STATEMENTS.history_before


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as the log holds it; the payload is JSON text."""

    version: int
    event_id: UUID
    type: str
    transfer_id: UUID | None
    occurred_at: datetime
    payload_json: str


async def history_of(
    pool: Pool,
    wallet_id: WalletId,
    *,
    limit: int,
    below_version: int | None = None,
    before: datetime | None = None,
) -> list[StoredEvent]:
    """At most `limit` events: those below a version, or those before a time, or the newest. Raises ReadFailed.

    Paging by version neither skips nor repeats, however many events are added meanwhile.
    """
    assert below_version is None or before is None
    bucket = bucket_of(wallet_id)
    if before is not None:
        rows = await fetch(pool, _HISTORY_BEFORE, bucket, wallet_id, before, limit)
    else:
        rows = await fetch(pool, _HISTORY, bucket, wallet_id, below_version or VERSION_MAX, limit)
    return [StoredEvent(*row.values()) for row in rows]
