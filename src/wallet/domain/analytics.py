"""Analytics: what each event adds to the totals of the wallets it concerns.

Sums and the maximum of times are commutative and associative. So any order, any grouping and a rebuild give the same
totals, provided that each event is counted once.

An event counts as activity of the wallet whose sequence contains it. An event that counts as a transfer is in the
sender's sequence and counts as activity of the receiver too. The totals of an event depend on the event alone.
"""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Final, assert_never
from uuid import UUID

from wallet.domain.events import EVENT_TYPES, Counted
from wallet.domain.identifiers import EventId, WalletId
from wallet.domain.money import ZERO, Value, add

_SEVERAL_EVENTS: Final = EventId(UUID(int=0))
_SEVERAL_WALLETS: Final = WalletId("-")


class LoggedEvent(Value, frozen=True):
    """The fields of an event in the log that the projections use."""

    event_id: EventId
    wallet_id: WalletId
    type: str
    amount: Decimal
    occurred_at: datetime
    to_wallet_id: WalletId | None


class Activity(Value, frozen=True):
    """The sum of the events of one type that concern one wallet.

    The events are in the wallet's own sequence or, if `is_receiver`, are transfers that the wallet received.
    """

    wallet_id: WalletId
    type: str
    is_receiver: bool
    amount: Decimal
    occurred_at: datetime


class WalletTotals(Value, frozen=True):
    """The totals of one wallet, or the amounts that some events add to them."""

    deposited: Decimal
    withdrawn: Decimal
    transferred_out: Decimal
    transferred_in: Decimal
    last_activity_at: datetime


def totals_of(event: LoggedEvent) -> tuple[tuple[WalletId, WalletTotals], ...]:
    """Returns what one event adds to the totals of each wallet that it concerns."""
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
    """Returns what several events add to a wallet: as much as one event with their sum and the latest time."""
    own, other = activity.wallet_id, _SEVERAL_WALLETS
    sender, receiver = (other, own) if activity.is_receiver else (own, other)
    together = LoggedEvent(_SEVERAL_EVENTS, sender, activity.type, activity.amount, activity.occurred_at, receiver)
    return dict(totals_of(together))[own]


def merge(left: WalletTotals, right: WalletTotals) -> WalletTotals:
    """Returns the sum of two totals. The operation is commutative and associative."""
    return WalletTotals(
        add(left.deposited, right.deposited),
        add(left.withdrawn, right.withdrawn),
        add(left.transferred_out, right.transferred_out),
        add(left.transferred_in, right.transferred_in),
        max(left.last_activity_at, right.last_activity_at),
    )


def fold(events: Iterable[LoggedEvent]) -> dict[WalletId, WalletTotals]:
    """Returns what all the events add, for each wallet. `events` must contain each event only once."""
    totals: dict[WalletId, WalletTotals] = {}
    for event in events:
        for wallet_id, added in totals_of(event):
            known = totals.get(wallet_id)
            totals[wallet_id] = added if known is None else merge(known, added)
    return totals
