"""A wallet's totals and suspicion, as far as the worker has counted."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from wallet.domain.identifiers import WalletId, bucket_of
from wallet.domain.money import ZERO
from wallet.postgres.connections import Pool
from wallet.postgres.statements import load_statements
from wallet.queries.reading import fetch_one

_STATS: Final[str] = load_statements("wallet.queries", "queries.sql").stats


@dataclass(frozen=True, slots=True)
class WalletStats:
    """Totals of one wallet; all zero if the worker has counted none of its events.

    Every change that was committed before `as_of` is counted. A time that is not known is None.
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
    """The wallet's totals. Raises ReadFailed."""
    row = await fetch_one(pool, _STATS, bucket_of(wallet_id), wallet_id)
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
