"""The outcomes: what a command got. The edge turns each into the bytes that are stored and replayed."""

from decimal import Decimal

from wallet.domain.events import TransferTerms
from wallet.domain.rejections import Rejected
from wallet.domain.values import Value


class Moved(Value, frozen=True):
    """A deposit or withdrawal took effect; `created` if it made the wallet."""

    balance: Decimal
    created: bool


class Transferred(Value, frozen=True):
    """A transfer completed; both balances right after it."""

    terms: TransferTerms
    from_balance: Decimal
    to_balance: Decimal


class KeyReused(Value, frozen=True):
    """The key already belongs to another request (its fingerprint); nothing moved, nothing is stored."""

    stored_fingerprint: str


FinalOutcome = Moved | Transferred | Rejected
Outcome = FinalOutcome | KeyReused
