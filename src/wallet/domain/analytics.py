"""Analytics: what each event adds to the totals of the wallets it concerns.

Sums commute and the greatest time does too, so any order, any grouping and a rebuild give the same totals,
provided that each event is counted once.

An event is activity of the wallet in whose sequence it is. An event that counts as a transfer, which
is in the sender's sequence, is activity of the receiver too. The totals of an event follow from the event alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, assert_never
from uuid import UUID

from wallet.domain.events import EVENT_TYPES, Counted
from wallet.domain.identifiers import EventId, WalletId
from wallet.domain.money import ZERO, add

_SEVERAL_EVENTS: Final = EventId(UUID(int=0))
_SEVERAL_WALLETS: Final = WalletId("-")


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """What the projections need to know of an event in the log."""

    event_id: EventId
    wallet_id: WalletId
    type: str
    amount: Decimal
    occurred_at: datetime
    to_wallet_id: WalletId | None


@dataclass(frozen=True, slots=True)
class Activity:
    """Events of one type together, as far as they concern one wallet: as the receiver of transfers, or as its own."""

    wallet_id: WalletId
    type: str
    is_receiver: bool
    amount: Decimal
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class WalletTotals:
    """One wallet's totals, or what some events add to them."""

    deposited: Decimal
    withdrawn: Decimal
    transferred_out: Decimal
    transferred_in: Decimal
    last_activity_at: datetime


def totals_of(event: LoggedEvent) -> tuple[tuple[WalletId, WalletTotals], ...]:
    """What one event adds, for each wallet it concerns."""
    time, amount = event.occurred_at, event.amount
    kind = EVENT_TYPES.get(event.type)
    if kind is None:
        raise ValueError(f"{event.type} is not an event type that analytics knows.")
    match kind.counted:
        case Counted.DEPOSIT:
            return ((event.wallet_id, WalletTotals(amount, ZERO, ZERO, ZERO, time)),)
        case Counted.WITHDRAWAL:
            return ((event.wallet_id, WalletTotals(ZERO, amount, ZERO, ZERO, time)),)
        case Counted.TRANSFER:
            assert event.to_wallet_id is not None, f"{event.type} {event.event_id} without its receiver"
            return (
                (event.wallet_id, WalletTotals(ZERO, ZERO, amount, ZERO, time)),
                (event.to_wallet_id, WalletTotals(ZERO, ZERO, ZERO, amount, time)),
            )
        case Counted.ACTIVITY:
            return ((event.wallet_id, WalletTotals(ZERO, ZERO, ZERO, ZERO, time)),)
        case other:
            assert_never(other)


def totals_of_activity(activity: Activity) -> WalletTotals:
    """What several events add to a wallet: the same as one event of their sum at the time of the latest."""
    own, other = activity.wallet_id, _SEVERAL_WALLETS
    sender, receiver = (other, own) if activity.is_receiver else (own, other)
    together = LoggedEvent(_SEVERAL_EVENTS, sender, activity.type, activity.amount, activity.occurred_at, receiver)
    return dict(totals_of(together))[own]


def merge(left: WalletTotals, right: WalletTotals) -> WalletTotals:
    """Both together; commutative and associative."""
    return WalletTotals(
        add(left.deposited, right.deposited),
        add(left.withdrawn, right.withdrawn),
        add(left.transferred_out, right.transferred_out),
        add(left.transferred_in, right.transferred_in),
        max(left.last_activity_at, right.last_activity_at),
    )


def fold(events: Iterable[LoggedEvent]) -> dict[WalletId, WalletTotals]:
    """What the events add together, per wallet; each event must be there once."""
    totals: dict[WalletId, WalletTotals] = {}
    for event in events:
        for wallet_id, added in totals_of(event):
            known = totals.get(wallet_id)
            totals[wallet_id] = added if known is None else merge(known, added)
    return totals
