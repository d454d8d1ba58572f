"""The events: facts in the past tense, each in exactly one wallet's sequence.

Each class declares everything that the rest of the program uses about its kind: the fields of its payload, its effect
on money, and what it counts as in the statistics. The class names are stored and published as event types, so
they never change their meaning. A payload may get new optional fields; existing fields never change.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum, unique
from typing import Any, ClassVar, Final, NamedTuple, Self, get_args
from uuid import UUID

from wallet.domain.identifiers import ApiAuditId, RequestId, TransferId, WalletId
from wallet.domain.money import ZERO, Value, format_money

SCHEMA_VERSION: Final = 1


class Effect(NamedTuple):
    """The changes that an event causes, each as a multiple of the event's amount.

    `balance` and `held` belong to the wallet whose sequence contains the event. `in_flight` is money between two
    wallets, `outside` is money outside the service. Money is conserved: balance + in_flight + outside is 0 for each
    event.
    """

    balance: int = 0
    held: int = 0
    in_flight: int = 0
    outside: int = 0


@unique
class Counted(Enum):
    """What an event counts as in the statistics. Every event counts as activity of its wallet."""

    ACTIVITY = "activity"
    DEPOSIT = "deposit"
    WITHDRAWAL = "withdrawal"
    TRANSFER = "transfer"
    """It counts for both wallets: for the sender, whose sequence contains it, and for the receiver."""


class TransferTerms(Value, frozen=True):
    """The terms of a transfer. They are the same in each of its events."""

    transfer_id: TransferId
    from_wallet_id: WalletId
    to_wallet_id: WalletId
    amount: Decimal
    currency: str


class WalletCreated(Value, frozen=True):
    """The wallet was created by its first credit."""

    effect: ClassVar = Effect()
    counted: ClassVar = Counted.ACTIVITY
    fields: ClassVar = ("currency",)
    amount: ClassVar = ZERO
    transfer_id: ClassVar = None

    currency: str

    def details(self) -> dict[str, str]:
        """Returns the fields of the payload that are not common to all events."""
        return {"currency": self.currency}

    @classmethod
    def decode(cls, payload: Mapping[str, Any]) -> Self:
        """Returns the event of a stored payload, in which money is Decimal."""
        return cls(payload["currency"])


class _Funds(Value, frozen=True):
    """An amount that came from outside, or went there."""

    counted: ClassVar[Counted]
    effect: ClassVar[Effect]
    fields: ClassVar[tuple[str, ...]] = ()
    transfer_id: ClassVar = None

    amount: Decimal

    def details(self) -> dict[str, str]:
        """Returns the fields of the payload that are not common to all events."""
        return {}

    @classmethod
    def decode(cls, payload: Mapping[str, Any]) -> Self:
        """Returns the event of a stored payload, in which money is Decimal."""
        return cls(payload["amount"])


class FundsDeposited(_Funds, frozen=True):
    """An amount came in from outside."""

    effect: ClassVar = Effect(balance=1, outside=-1)
    counted: ClassVar = Counted.DEPOSIT


class FundsWithdrawn(_Funds, frozen=True):
    """An amount went out to the outside."""

    effect: ClassVar = Effect(balance=-1, outside=1)
    counted: ClassVar = Counted.WITHDRAWAL


class _OfTransfer(Value, frozen=True):
    """An event of a transfer."""

    effect: ClassVar[Effect]
    counted: ClassVar[Counted] = Counted.ACTIVITY
    fields: ClassVar[tuple[str, ...]] = ("transferId", "fromWalletId", "toWalletId", "currency")

    terms: TransferTerms

    @property
    def amount(self) -> Decimal:
        """The amount of the transfer."""
        return self.terms.amount

    @property
    def transfer_id(self) -> TransferId:
        """The transfer."""
        return self.terms.transfer_id

    def details(self) -> dict[str, str]:
        """Returns the fields of the payload that are not common to all events."""
        terms = self.terms
        return {
            "transferId": str(terms.transfer_id),
            "fromWalletId": terms.from_wallet_id,
            "toWalletId": terms.to_wallet_id,
            "currency": terms.currency,
        }

    @classmethod
    def decode(cls, payload: Mapping[str, Any]) -> Self:
        """Returns the event of a stored payload, in which money is Decimal."""
        return cls(_terms_of(payload))


class _OfRefusedTransfer(_OfTransfer, frozen=True):
    """An event of a transfer that the receiver refused."""

    fields: ClassVar[tuple[str, ...]] = (*_OfTransfer.fields, "reason")

    reason: str

    def details(self) -> dict[str, str]:
        """Returns the fields of the payload that are not common to all events."""
        return {**_OfTransfer.details(self), "reason": self.reason}

    @classmethod
    def decode(cls, payload: Mapping[str, Any]) -> Self:
        """Returns the event of a stored payload, in which money is Decimal."""
        return cls(_terms_of(payload), payload["reason"])


class TransferInitiated(_OfTransfer, frozen=True):
    """The sender's transfer was accepted."""

    effect: ClassVar = Effect()


class TransferDebited(_OfTransfer, frozen=True):
    """The amount left the sender."""

    effect: ClassVar = Effect(balance=-1, in_flight=1)


class TransferCredited(_OfTransfer, frozen=True):
    """The amount reached the receiver; in the receiver's sequence."""

    effect: ClassVar = Effect(balance=1, in_flight=-1)


class TransferCompleted(_OfTransfer, frozen=True):
    """Recorded at the sender after the receiver was credited."""

    effect: ClassVar = Effect()
    counted: ClassVar = Counted.TRANSFER


class TransferCompensated(_OfRefusedTransfer, frozen=True):
    """The amount came back to the sender, because the receiver refused it."""

    effect: ClassVar = Effect(balance=1, in_flight=-1)


class TransferFailed(_OfRefusedTransfer, frozen=True):
    """The transfer ended without effect."""

    effect: ClassVar = Effect()


Event = (
    WalletCreated
    | FundsDeposited
    | FundsWithdrawn
    | TransferInitiated
    | TransferDebited
    | TransferCredited
    | TransferCompleted
    | TransferCompensated
    | TransferFailed
)

EVENT_TYPES: Final[dict[str, type[Event]]] = {kind.__name__: kind for kind in get_args(Event)}
"""The class of each event type, by its name as it is stored and published."""
COMMON_FIELDS: Final = ("walletId", "amount", "newBalance", "requestId")
"""The fields of every payload, in this order, before those that the class declares."""


class RecordedEvent(Value, frozen=True):
    """An event at its place in its wallet's sequence."""

    event: Event
    wallet_id: WalletId
    version: int
    occurred_at: datetime
    balance_after: Decimal
    request_id: RequestId
    api_audit_id: ApiAuditId


def type_of(event: Event) -> str:
    """Returns the type of the event as it is stored and published."""
    return type(event).__name__


def payload_of(recorded: RecordedEvent) -> dict[str, str]:
    """Returns the payload as it is stored, published and shown, ready for JSON, with money as decimal strings."""
    event = recorded.event
    return {
        "walletId": recorded.wallet_id,
        "amount": format_money(event.amount),
        "newBalance": format_money(recorded.balance_after),
        "requestId": recorded.request_id,
        **event.details(),
    }


def decode_event(event_type: str, payload: Mapping[str, Any]) -> Event:
    """Returns the event of a stored type and payload. Raises KeyError for an unknown type or a missing field.

    In the payload, `amount` is a Decimal and all other values are text.
    """
    return EVENT_TYPES[event_type].decode(payload)


def _terms_of(payload: Mapping[str, Any]) -> TransferTerms:
    return TransferTerms(
        TransferId(UUID(payload["transferId"])),
        WalletId(payload["fromWalletId"]),
        WalletId(payload["toWalletId"]),
        payload["amount"],
        payload["currency"],
    )
