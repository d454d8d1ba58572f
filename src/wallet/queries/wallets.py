"""The reads of one wallet: its balance, its events (newest first, in the wallet's own order), and its totals and
suspicious state as far as the worker has counted.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from wallet.domain.identifiers import BIGINT_MAX, WalletId, bucket_of
from wallet.domain.money import ZERO
from wallet.postgres.connections import Pool
from wallet.postgres.statements import load_statements
from wallet.queries.reading import fetch, fetch_one

_SQL: Final = load_statements("wallet.queries", "queries.sql")


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """An event as stored in the log; the payload is JSON text. If the event is the wallet's creation by a transfer,
    `created_by_wallet_id` is the sender.
    """

    version: int
    event_id: UUID
    type: str
    transfer_id: UUID | None
    occurred_at: datetime
    payload_json: str
    created_by_wallet_id: WalletId | None


async def history_of(
    pool: Pool,
    wallet_id: WalletId,
    *,
    limit: int,
    below_version: int | None = None,
    before: datetime | None = None,
) -> list[HistoryEvent]:
    """Returns at most `limit` events: those below a version, or those before a time, or the newest. Raises ReadFailed.

    Paging by version neither skips nor repeats events, however many are added in the meantime.
    """
    assert below_version is None or before is None
    bucket = bucket_of(wallet_id)
    if before is not None:
        rows = await fetch(pool, _SQL.history_before, bucket, wallet_id, before, limit)
    else:
        rows = await fetch(pool, _SQL.history, bucket, wallet_id, below_version or BIGINT_MAX, limit)
    return [HistoryEvent(**row) for row in rows]


async def balance_of(pool: Pool, wallet_id: WalletId) -> Decimal | None:
    """Returns the current balance, or None if the wallet has no event. Raises ReadFailed."""
    row = await fetch_one(pool, _SQL.balance, bucket_of(wallet_id), wallet_id)
    return None if row is None else row["balance"]


@dataclass(frozen=True, slots=True)
class WalletStats:
    """Totals of one wallet; all zero if the worker has counted none of its events.

    Every change that was committed before `as_of` is counted. An unknown time is None.
    """

    total_deposited: Decimal = ZERO
    total_withdrawn: Decimal = ZERO
    total_transferred_out: Decimal = ZERO
    total_transferred_in: Decimal = ZERO
    last_activity_at: datetime | None = None
    is_suspicious: bool = False
    suspicious_reason: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    as_of: datetime | None = None


async def stats_of(pool: Pool, wallet_id: WalletId) -> WalletStats:
    """Returns the wallet's totals. Raises ReadFailed."""
    row = await fetch_one(pool, _SQL.stats, bucket_of(wallet_id), wallet_id)
    assert row is not None, "the only row of stats_progress is missing"
    if not row["is_known"]:
        return WalletStats(as_of=row["as_of"])
    return WalletStats(
        total_deposited=row["total_deposited"],
        total_withdrawn=row["total_withdrawn"],
        total_transferred_out=row["total_transferred_out"],
        total_transferred_in=row["total_transferred_in"],
        last_activity_at=row["last_activity_at"],
        is_suspicious=row["suspicious"],
        suspicious_reason=row["suspicious_reason"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        as_of=row["as_of"],
    )
