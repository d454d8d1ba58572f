"""What the histories hold: the effects of each key, and whether each balance follows from the one before it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby

from wallet.stress.books import Event, Shown
from wallet.stress.operations import Key, WalletId
from wallet.stress.outcomes import ZERO, Effect, Outcome

COMPENSATED = "TransferCompensated"


@dataclass(frozen=True, slots=True)
class Found:
    """The effects in the histories by the key they belong to, and those that belong to none."""

    by_key: Mapping[Key, Counter[Effect]]
    strays: Sequence[str]

    def of(self, key: Key) -> Counter[Effect]:
        """The key's effects; none where the histories do not know it."""
        return self.by_key.get(key, Counter())


def find_effects(outcomes: Mapping[Key, Outcome], shown: Mapping[WalletId, Shown]) -> Found:
    """Every event that moved money, given to its key.

    An event tells its key itself, or its transfer, whose key another event or the transfer's answer tells.
    """
    key_of_transfer = _keys_of_transfers(outcomes, shown)
    by_key: defaultdict[Key, Counter[Effect]] = defaultdict(Counter)
    strays: list[str] = []
    for wallet_id, wallet in shown.items():
        for event in wallet.events:
            if not event.moved:
                continue
            key = Key(event.request_id) if event.request_id else key_of_transfer.get(event.transfer_id or "")
            if key is None or key not in outcomes:
                strays.append(f"{wallet_id}: {_describe(event)} belongs to no key of this run")
            elif event.type == COMPENSATED:
                # Money that came back undoes its debit: the two together are no effect.
                by_key[key][Effect(wallet_id, -event.moved)] -= 1
            else:
                by_key[key][Effect(wallet_id, event.moved)] += 1
    return Found({key: Counter({e: n for e, n in effects.items() if n}) for key, effects in by_key.items()}, strays)


def first_jump(wallet_id: WalletId, wallet: Shown) -> str | None:
    """The first event whose balance does not follow from the one before it; None if there is none.

    Events of the same time have no order that a service must show: there it is enough that each balance follows from
    one of the others.
    """
    balance = ZERO
    for _, same_time in groupby(_with_balances(wallet.events), key=lambda event: event.occurred_at):
        events = list(same_time)
        ends = _ends(balance, events)
        if ends is None:
            return f"{wallet_id}: {_describe(events[0])} stands after {balance:.4f}{_is_order_only(wallet.events)}"
        balance = ends
    if balance != wallet.balance:
        return f"{wallet_id}: the history ends at {balance:.4f}, the balance is {wallet.balance:.4f}"
    return None


def _keys_of_transfers(outcomes: Mapping[Key, Outcome], shown: Mapping[WalletId, Shown]) -> dict[str, Key]:
    keys = {outcome.transfer_id: key for key, outcome in outcomes.items() if outcome.transfer_id is not None}
    for wallet in shown.values():
        for event in wallet.events:
            if event.transfer_id is not None and event.request_id is not None:
                keys[event.transfer_id] = Key(event.request_id)
    return keys


def _with_balances(events: Iterable[Event]) -> Iterator[Event]:
    return (event for event in events if event.moved or event.new_balance is not None)


def _ends(balance: Decimal, events: Sequence[Event]) -> Decimal | None:
    """Where these events lead from this balance, whatever their order; None if they do not."""
    if len(events) == 1 or any(event.new_balance is None for event in events):
        for event in events:
            if event.new_balance not in (None, balance + event.moved):
                return None
            balance += event.moved
        return balance
    # As a walk: every balance is left as often as it is reached, but for the first and the last.
    visits = Counter([balance])
    for event in events:
        assert event.new_balance is not None
        visits[event.new_balance] += 1
        visits[event.new_balance - event.moved] -= 1
    left = [(value, count) for value, count in visits.items() if count]
    return left[0][0] if len(left) == 1 and left[0][1] == 1 else None


def _is_order_only(events: Sequence[Event]) -> str:
    in_any_order = len(events) > 1 and _ends(ZERO, list(_with_balances(events))) is not None
    return " (each balance follows from another: only their order is wrong)" if in_any_order else ""


def _describe(event: Event) -> str:
    balance = "" if event.new_balance is None else f" with balance {event.new_balance:.4f}"
    key = f", key {event.request_id}" if event.request_id else ""
    return f"{event.type} {event.moved:+.4f}{balance}{key}"
