"""The outcomes of commands, refusals included; a refusal is a value, never an exception.

The edge encodes each outcome as the bytes that are stored and replayed.
"""

from decimal import Decimal
from enum import StrEnum, unique

from wallet.domain.events import TransferTerms
from wallet.domain.money import Value


@unique
class Rejection(StrEnum):
    """Why a command was refused. The value is the stable code that clients see."""

    WALLET_NOT_FOUND = "wallet_not_found"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    BALANCE_LIMIT_EXCEEDED = "balance_limit_exceeded"
    TRANSFER_FAILED = "transfer_failed"


class Rejected(Value, frozen=True):
    """The outcome of a refused command: the reason and a sentence with the exact numbers."""

    reason: Rejection
    detail: str


class Moved(Value, frozen=True):
    """A deposit or withdrawal took effect. `created` is true if it created the wallet."""

    balance: Decimal
    created: bool


class Transferred(Value, frozen=True):
    """A transfer completed. The balances are those right after it."""

    terms: TransferTerms
    from_balance: Decimal
    to_balance: Decimal


class KeyReused(Value, frozen=True):
    """The key already belongs to another request, with the stored fingerprint. No money moved; nothing is stored."""

    stored_fingerprint: str


FinalOutcome = Moved | Transferred | Rejected
Outcome = FinalOutcome | KeyReused
