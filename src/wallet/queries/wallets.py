"""A wallet's balance."""

from decimal import Decimal
from typing import Final

from wallet.domain.identifiers import WalletId, bucket_of
from wallet.postgres.connections import Pool
from wallet.postgres.statements import load_statements
from wallet.queries.reading import fetch_one

_BALANCE: Final[str] = load_statements("wallet.queries", "queries.sql").balance


async def balance_of(pool: Pool, wallet_id: WalletId) -> Decimal | None:
    """The balance now, or None where no event has made the wallet real. Raises ReadFailed."""
    row = await fetch_one(pool, _BALANCE, bucket_of(wallet_id), wallet_id)
    return None if row is None else row["balance"]
