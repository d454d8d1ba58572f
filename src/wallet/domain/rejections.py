"""The closed list of business refusals; a refusal is a value, never an exception."""

from enum import StrEnum, unique

from wallet.domain.values import Value


@unique
class Rejection(StrEnum):
    """Why a command got no effect. The value is the stable code that clients see."""

    WALLET_NOT_FOUND = "wallet_not_found"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    BALANCE_LIMIT_EXCEEDED = "balance_limit_exceeded"
    TRANSFER_FAILED = "transfer_failed"


class Rejected(Value, frozen=True):
    """The outcome of a refused command: the reason and a sentence with the exact numbers."""

    reason: Rejection
    detail: str
