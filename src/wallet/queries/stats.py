"""A wallet's totals and suspicion, as far as the worker has counted."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from wallet.domain.identifiers import WalletId, bucket_of
from wallet.domain.money import ZERO
from wallet.postgres.statements import load_statements
from wallet.queries.reading import fetch_one

if TYPE_CHECKING:
    from wallet.postgres.connections import Pool

_STATS: Final[str] = load_statements("wallet.queries", "queries.sql").stats


@dataclass(frozen=True, slots=True)
class WalletStats:
    """Totals of one wallet; all zero where the worker has seen none of its events."""

    total_deposited: Decimal = ZERO
    total_withdrawn: Decimal = ZERO
    total_transferred_out: Decimal = ZERO
    total_transferred_in: Decimal = ZERO
    last_activity_at: datetime | None = None
    is_suspicious: bool = False
    suspicious_reason: str | None = None


async def stats_of(pool: "Pool", wallet_id: WalletId) -> WalletStats:
    """The wallet's totals. Raises ReadFailed."""
    row = await fetch_one(pool, _STATS, bucket_of(wallet_id), wallet_id)
    return WalletStats() if row is None else WalletStats(*row.values())
