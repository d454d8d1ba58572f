"""The events: facts in the past tense, each in exactly one wallet's sequence.

The class names are stored and published as event types, so they never change their meaning.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any, Final, assert_never

from wallet.domain.identifiers import ApiAuditId, RequestId, TransferId, WalletId
from wallet.domain.money import ZERO, format_money
from wallet.domain.values import Value

SCHEMA_VERSION: Final = 1


class TransferTerms(Value, frozen=True):
    """What a transfer is about; the same in each of its events."""

    transfer_id: TransferId
    from_wallet_id: WalletId
    to_wallet_id: WalletId
    amount: Decimal
    currency: str


class WalletCreated(Value, frozen=True):
    """A first credit created the wallet."""

    currency: str


class FundsDeposited(Value, frozen=True):
    """An amount came in from outside."""

    amount: Decimal


class FundsWithdrawn(Value, frozen=True):
    """An amount went out to the outside."""

    amount: Decimal


class TransferInitiated(Value, frozen=True):
    """The sender's transfer was accepted."""

    terms: TransferTerms


class TransferDebited(Value, frozen=True):
    """The amount left the sender."""

    terms: TransferTerms


class TransferCredited(Value, frozen=True):
    """The amount reached the receiver; in the receiver's sequence."""

    terms: TransferTerms


class TransferCompleted(Value, frozen=True):
    """The sender knows that the receiver was credited."""

    terms: TransferTerms


class TransferCompensated(Value, frozen=True):
    """The amount came back to the sender, because the receiver refused it."""

    terms: TransferTerms
    reason: str


class TransferFailed(Value, frozen=True):
    """The transfer ended without effect."""

    terms: TransferTerms
    reason: str


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

SIGNS: Final[dict[str, int]] = {
    "WalletCreated": 0,
    "FundsDeposited": 1,
    "FundsWithdrawn": -1,
    "TransferInitiated": 0,
    "TransferDebited": -1,
    "TransferCredited": 1,
    "TransferCompleted": 0,
    "TransferCompensated": 1,
    "TransferFailed": 0,
}
"""Event type → the sign of its amount on the balance."""


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
    """The event's type as stored and published."""
    return type(event).__name__


def amount_of(event: Event) -> Decimal:
    """The amount the event speaks of; 0 for WalletCreated."""
    match event:
        case WalletCreated():
            return ZERO
        case FundsDeposited() | FundsWithdrawn():
            return event.amount
        case _:
            return event.terms.amount


def transfer_id_of(event: Event) -> TransferId | None:
    """The transfer the event belongs to, if any."""
    match event:
        case WalletCreated() | FundsDeposited() | FundsWithdrawn():
            return None
        case _:
            return event.terms.transfer_id


def payload_of(recorded: RecordedEvent) -> dict[str, Any]:
    """The event's payload as stored, published and shown: JSON-ready, money as decimal strings."""
    event = recorded.event
    payload: dict[str, Any] = {
        "walletId": recorded.wallet_id,
        "amount": format_money(amount_of(event)),
        "newBalance": format_money(recorded.balance_after),
        "requestId": recorded.request_id,
    }
    match event:
        case WalletCreated():
            payload["currency"] = event.currency
        case FundsDeposited() | FundsWithdrawn():
            pass
        case TransferInitiated() | TransferDebited() | TransferCredited() | TransferCompleted():
            payload |= _transfer_payload(event.terms)
        case TransferCompensated() | TransferFailed():
            payload |= _transfer_payload(event.terms)
            payload["reason"] = event.reason
        case _:
            assert_never(event)
    return payload


def _transfer_payload(terms: TransferTerms) -> dict[str, Any]:
    return {
        "transferId": str(terms.transfer_id),
        "fromWalletId": terms.from_wallet_id,
        "toWalletId": terms.to_wallet_id,
        "currency": terms.currency,
    }
