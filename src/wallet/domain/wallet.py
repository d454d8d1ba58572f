"""The wallet: one owner's balance in one currency, with its own event sequence; the unit we lock."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from wallet.domain.events import (
    EVENT_TYPES,
    Event,
    FundsDeposited,
    FundsWithdrawn,
    RecordedEvent,
    WalletCreated,
    type_of,
)
from wallet.domain.identifiers import ApiAuditId, RequestId, WalletId
from wallet.domain.money import BALANCE_MAX, ZERO, Value, add, format_money, subtract
from wallet.domain.outcomes import Rejected, Rejection

DEFAULT_CURRENCY: Final = "USD"
_TICK: Final = timedelta(microseconds=1)
_INCLUDING_REFUNDABLE: Final = ", with the money of its transfers under way, which may come back"


class Wallet(Value, frozen=True):
    """A wallet's state. Version 0 means that the wallet does not exist, even if there is a row to lock."""

    wallet_id: WalletId
    currency: str
    balance: Decimal
    version: int
    last_event_at: datetime | None

    @property
    def exists(self) -> bool:
        """Whether the wallet was created by an event."""
        return self.version > 0


NOT_COMPARED_YET: Final[frozenset[str]] = frozenset()
"""Columns that the previous version's programs leave unchanged, so that the integrity checks must not compare them with
the fold of the events yet. The version after the one that adds a column, and fills it, removes its name here.
"""


def initial(wallet_id: WalletId) -> Wallet:
    """Returns the state before the first event."""
    return Wallet(wallet_id, DEFAULT_CURRENCY, ZERO, 0, None)


def decide_deposit(wallet: Wallet, amount: Decimal, *, refundable: Decimal = ZERO) -> tuple[Event, ...] | Rejected:
    """Decide a deposit; the first one creates the wallet. See `refuse_credit` for `refundable`."""
    refusal = refuse_credit(wallet, amount, refundable=refundable)
    if refusal is not None:
        return refusal
    if wallet.exists:
        return (FundsDeposited(amount),)
    return (WalletCreated(DEFAULT_CURRENCY), FundsDeposited(amount))


def decide_withdraw(wallet: Wallet, amount: Decimal) -> tuple[Event, ...] | Rejected:
    """Decide a withdrawal: it is refused if the balance is less than the amount."""
    return refuse_debit(wallet, amount) or (FundsWithdrawn(amount),)


def no_such_wallet(wallet_id: WalletId) -> str:
    """Returns the detail of a refusal because a wallet does not exist."""
    return f"Wallet {wallet_id} does not exist. Deposit into it first."


def refuse_debit(wallet: Wallet, amount: Decimal) -> Rejected | None:
    """Returns the refusal if this amount can't leave the wallet, or None."""
    if not wallet.exists:
        return Rejected(Rejection.WALLET_NOT_FOUND, no_such_wallet(wallet.wallet_id))
    if wallet.balance < amount:
        return Rejected(
            Rejection.INSUFFICIENT_FUNDS,
            f"Wallet {wallet.wallet_id} holds {format_money(wallet.balance)}, "
            f"which is less than the {format_money(amount)} asked for.",
        )
    return None


def refuse_credit(wallet: Wallet, amount: Decimal, *, refundable: Decimal) -> Rejected | None:
    """Returns the refusal if this amount can't enter the wallet, or None.

    `refundable` is the sum that the wallet has sent in stepwise transfers that have not ended. It may come back at any
    time, so it counts towards the limit. A debit moves money from the balance to `refundable` and leaves their sum
    unchanged, so a refund never exceeds the limit.
    """
    if add(add(wallet.balance, refundable), amount) > BALANCE_MAX:
        return Rejected(
            Rejection.BALANCE_LIMIT_EXCEEDED,
            # The message does not contain the balance: a sender must not learn the balance of the receiver.
            f"{format_money(amount)} more would take wallet {wallet.wallet_id} over its limit of "
            f"{format_money(BALANCE_MAX)}{_INCLUDING_REFUNDABLE if refundable else ''}.",
        )
    return None


def evolve(wallet: Wallet, event: Event, occurred_at: datetime) -> Wallet:
    """Returns the state after one more event."""
    currency = event.currency if isinstance(event, WalletCreated) else None
    after = evolve_by_columns(wallet, type_of(event), event.amount, occurred_at, currency)
    assert ZERO <= after.balance <= BALANCE_MAX, f"{type_of(event)} would take {wallet.wallet_id} to {after.balance}"
    return after


def evolve_by_columns(
    wallet: Wallet, event_type: str, amount: Decimal, occurred_at: datetime | None, currency: str | None
) -> Wallet:
    """Returns the state after one more event, which is given by its columns in the log. The write path and the
    integrity check both use this function.

    Only the event that creates a wallet has a `currency`. The balance may be out of bounds.
    """
    balance = evolve_balance(wallet.balance, event_type, amount)
    return Wallet(wallet.wallet_id, currency or wallet.currency, balance, wallet.version + 1, occurred_at)


def evolve_balance(balance: Decimal, event_type: str, amount: Decimal) -> Decimal:
    """Returns the balance after one more event."""
    match EVENT_TYPES[event_type].effect.balance:
        case 1:
            return add(balance, amount)
        case -1:
            return subtract(balance, amount)
        case 0:
            return balance
        case other:
            raise AssertionError(f"{event_type} moves {other} times its amount")


def record(
    wallet: Wallet, event: Event, now: datetime, *, request_id: RequestId, api_audit_id: ApiAuditId
) -> tuple[Wallet, RecordedEvent]:
    """Give an event the next version, and a time that is later than that of the wallet's last event."""
    occurred_at = now
    if wallet.last_event_at is not None and now <= wallet.last_event_at:
        occurred_at = wallet.last_event_at + _TICK
    after = evolve(wallet, event, occurred_at)
    recorded = RecordedEvent(
        event, wallet.wallet_id, after.version, occurred_at, after.balance, request_id, api_audit_id
    )
    return after, recorded


def creation_for(wallet: Wallet, currency: str) -> tuple[Event, ...]:
    """Returns the event that creates the receiver of a credit, or nothing if the wallet exists."""
    return () if wallet.exists else (WalletCreated(currency),)
