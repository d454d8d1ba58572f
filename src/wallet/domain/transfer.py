"""The transfer saga: Initiated → Debited → Completed, or Debited → Compensated → Failed.

Each step is a pure transition of one wallet. A transfer runs in one database transaction, or stepwise in three: the
same steps run in the same order. A step that has taken effect is never decided again.
"""

from decimal import Decimal
from enum import StrEnum, unique

from wallet.domain.events import (
    Event,
    TransferCompensated,
    TransferCompleted,
    TransferCredited,
    TransferDebited,
    TransferFailed,
    TransferInitiated,
    TransferTerms,
)
from wallet.domain.money import ZERO, Value
from wallet.domain.outcomes import Rejected
from wallet.domain.wallet import Wallet, creation_for, refuse_credit, refuse_debit


@unique
class TransferStatus(StrEnum):
    """The last step that a stored transfer has reached."""

    DEBITED = "debited"
    COMPLETED = "completed"
    FAILED = "failed"


class CreditAccepted(Value, frozen=True):
    """The receiver was credited: its balance afterwards, and the version of the event that credited it."""

    balance_after: Decimal
    version: int


class CreditRefused(Value, frozen=True):
    """The receiver could not be credited; the reason is a sentence."""

    reason: str


CreditOutcome = CreditAccepted | CreditRefused


def begin(sender: Wallet, terms: TransferTerms) -> tuple[Event, ...] | Rejected:
    """Step 1, at the sender: debit the amount, or refuse."""
    return refuse_debit(sender, terms.amount) or (TransferInitiated(terms), TransferDebited(terms))


def receive(receiver: Wallet, terms: TransferTerms, *, refundable: Decimal = ZERO) -> tuple[Event, ...] | Rejected:
    """Step 2, at the receiver: credit the amount, or refuse. This decision alone determines how the saga ends.

    `refundable` is what the receiver itself has sent and may get back (see `refuse_credit`).
    """
    return refuse_credit(receiver, terms.amount, refundable=refundable) or (
        *creation_for(receiver, terms.currency),
        TransferCredited(terms),
    )


def conclude(terms: TransferTerms, credit: CreditOutcome) -> tuple[Event, ...]:
    """Step 3, at the sender: complete the transfer, or return the money."""
    match credit:
        case CreditAccepted():
            return (TransferCompleted(terms),)
        case CreditRefused():
            return (TransferCompensated(terms, credit.reason), TransferFailed(terms, credit.reason))
