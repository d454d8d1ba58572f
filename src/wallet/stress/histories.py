"""Reads the histories: finds the effects of each key, and checks that each balance follows from the one before it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from itertools import groupby
from typing import Any, Final
from urllib.parse import urlencode

from wallet.stress.client import Client, HistoryPage, UnreadableWallet
from wallet.stress.operations import Key, WalletId
from wallet.stress.outcomes import TOTAL_NAMES, ZERO, ExpectedEffect, ExpectedTotals, KeyOutcome

PAGE_LIMIT: Final = 200
PAGES_MAX: Final = 100_000
OVERLAP: Final = timedelta(milliseconds=1)
QUANTUM: Final = Decimal("0.0001")
MONEY_MAX: Final = Decimal(10) ** 20

SIGNS: Final = {
    "FundsDeposited": 1,
    "FundsWithdrawn": -1,
    "TransferDebited": -1,
    "TransferCredited": 1,
    "TransferCompensated": 1,
    # The amount is zero if the first deposit is an event of its own; otherwise it is that deposit.
    "WalletCreated": 1,
}
"""Event type → the sign with which its amount changes the balance; other events change nothing."""


@dataclass(frozen=True, slots=True)
class ShownEvent:
    """One event of a history; `moved` is signed, and `new_balance` is None if the service does not show it."""

    event_id: str
    type: str
    occurred_at: str
    moved: Decimal
    new_balance: Decimal | None
    request_id: str | None
    transfer_id: str | None


@dataclass(frozen=True, slots=True)
class Shown:
    """A wallet as the service shows it; the events are oldest first."""

    balance: Decimal = ZERO
    events: tuple[ShownEvent, ...] = ()


async def read_wallet(client: Client, wallet_id: WalletId) -> Shown:
    """Returns the balance and the whole history. Raises UnreadableWallet."""
    path = f"/wallet/{wallet_id}"
    page = await client.get(path)
    balance = ZERO if page.value is None else _money(path, page.value, "balance")
    return Shown(balance, await _read_history(client, wallet_id))


async def read_totals(client: Client, wallet_id: WalletId) -> ExpectedTotals:
    """Returns the worker's totals. Raises UnreadableWallet."""
    path = f"/wallet/{wallet_id}/stats"
    stats = (await client.get(path)).value
    if stats is None:
        return ExpectedTotals()
    return ExpectedTotals(**{ours: _money(path, stats, theirs) for theirs, ours in TOTAL_NAMES.items()})


async def _read_history(client: Client, wallet_id: WalletId) -> tuple[ShownEvent, ...]:
    path = f"/wallet/{wallet_id}/history"
    newest_first: list[ShownEvent] = []
    known: set[str] = set()
    url: str | None = f"{path}?{urlencode({'limit': PAGE_LIMIT})}"
    for _ in range(PAGES_MAX):
        if url is None:
            return tuple(reversed(newest_first))
        page = await client.get(url)
        # An event that is listed twice on one page is the service's fault and is kept; on two pages it is our overlap.
        events = [event for event in _events(path, page) if event.event_id not in known]
        newest_first += events
        known.update(event.event_id for event in events)
        url = page.next_url or _url_before(path, events)
    raise UnreadableWallet(f"GET {path}: more than {PAGES_MAX} pages")


def _url_before(path: str, events: list[ShownEvent]) -> str | None:
    """Returns the URL of the page that overlaps the end of these events, or None if there were no new ones."""
    if not events:
        return None
    try:
        oldest = datetime.fromisoformat(events[-1].occurred_at)
    except ValueError as error:
        raise UnreadableWallet(f"GET {path}: occurredAt is no RFC 3339 time: {events[-1].occurred_at!r}") from error
    before = (oldest + OVERLAP).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return f"{path}?{urlencode({'limit': PAGE_LIMIT, 'before': before})}"


def _events(path: str, page: HistoryPage) -> Iterator[ShownEvent]:
    if page.value is None:
        return
    if not isinstance(page.value, list):
        raise UnreadableWallet(f"GET {path}: not a JSON array")
    for item in page.value:
        if not isinstance(item, dict) or not isinstance(item.get("payload"), dict):
            raise UnreadableWallet(f"GET {path}: an event without a payload")
        yield _event(path, item, item["payload"])


def _event(path: str, item: dict[str, Any], payload: dict[str, Any]) -> ShownEvent:
    sign = SIGNS.get(str(item.get("type")), 0)
    return ShownEvent(
        event_id=str(item.get("id")),
        type=str(item.get("type")),
        occurred_at=str(item.get("occurredAt")),
        moved=sign * _money(path, payload, "amount") if sign else ZERO,
        new_balance=None if payload.get("newBalance") is None else _money(path, payload, "newBalance"),
        request_id=_text(payload.get("requestId")),
        transfer_id=_text(item.get("transferId")) or _text(payload.get("transferId")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _money(path: str, fields: Any, name: str) -> Decimal:
    """Returns an amount, given as a decimal string or as a JSON number.

    A number is rounded to four decimals: a service that shows 0.30000000000000004 for a stored 0.3000 formats money
    badly, but has lost none.
    """
    value = fields.get(name) if isinstance(fields, dict) else None
    if isinstance(value, str | int | Decimal) and not isinstance(value, bool):
        try:
            money = Decimal(value)
            if abs(money) < MONEY_MAX:
                return money if isinstance(value, str) else money.quantize(QUANTUM)
        except InvalidOperation:
            pass
    raise UnreadableWallet(f"GET {path}: {name} is not an amount of money: {value!r}")


COMPENSATED = "TransferCompensated"


@dataclass(frozen=True, slots=True)
class Found:
    """The effects in the histories by the key they belong to, and those that belong to no key."""

    by_key: Mapping[Key, Counter[ExpectedEffect]]
    strays: Sequence[str]

    def of(self, key: Key) -> Counter[ExpectedEffect]:
        """Returns the key's effects, or none if the histories do not contain it."""
        return self.by_key.get(key, Counter())


def find_effects(outcomes: Mapping[Key, KeyOutcome], shown: Mapping[WalletId, Shown]) -> Found:
    """Returns every event that moved money, assigned to its key.

    An event contains its key or its transfer's id. The transfer's key is in another event or in the transfer's answer.
    """
    key_of_transfer = _keys_of_transfers(outcomes, shown)
    by_key: defaultdict[Key, Counter[ExpectedEffect]] = defaultdict(Counter)
    strays: list[str] = []
    for wallet_id, wallet in shown.items():
        for event in wallet.events:
            if not event.moved:
                continue
            key = Key(event.request_id) if event.request_id else key_of_transfer.get(event.transfer_id or "")
            if key is None or key not in outcomes:
                strays.append(f"{wallet_id}: {_describe(event)} belongs to no key of this run")
            elif event.type == COMPENSATED:
                # A returned amount cancels its debit: the two together have no effect.
                by_key[key][ExpectedEffect(wallet_id, -event.moved)] -= 1
            else:
                by_key[key][ExpectedEffect(wallet_id, event.moved)] += 1
    return Found({key: Counter({e: n for e, n in effects.items() if n}) for key, effects in by_key.items()}, strays)


def first_jump(wallet_id: WalletId, wallet: Shown) -> str | None:
    """Returns a description of the first balance that does not follow from the one before it, or None if there is none.

    Events with the same time have no order that a service must show: among them each balance only has to follow from
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


def _keys_of_transfers(outcomes: Mapping[Key, KeyOutcome], shown: Mapping[WalletId, Shown]) -> dict[str, Key]:
    keys = {outcome.transfer_id: key for key, outcome in outcomes.items() if outcome.transfer_id is not None}
    for wallet in shown.values():
        for event in wallet.events:
            if event.transfer_id is not None and event.request_id is not None:
                keys[event.transfer_id] = Key(event.request_id)
    return keys


def _with_balances(events: Iterable[ShownEvent]) -> Iterator[ShownEvent]:
    return (event for event in events if event.moved or event.new_balance is not None)


def _ends(balance: Decimal, events: Sequence[ShownEvent]) -> Decimal | None:
    """Returns the balance after these events, in any order, or None if no order fits."""
    if len(events) == 1 or any(event.new_balance is None for event in events):
        for event in events:
            if event.new_balance not in (None, balance + event.moved):
                return None
            balance += event.moved
        return balance
    # Treat the balances as the nodes of a walk: every balance is left as often as it is reached, except the first and
    # the last.
    visits = Counter([balance])
    for event in events:
        assert event.new_balance is not None
        visits[event.new_balance] += 1
        visits[event.new_balance - event.moved] -= 1
    left = [(value, count) for value, count in visits.items() if count]
    return left[0][0] if len(left) == 1 and left[0][1] == 1 else None


def _is_order_only(events: Sequence[ShownEvent]) -> str:
    in_any_order = len(events) > 1 and _ends(ZERO, list(_with_balances(events))) is not None
    return " (each balance follows from another: only their order is wrong)" if in_any_order else ""


def _describe(event: ShownEvent) -> str:
    balance = "" if event.new_balance is None else f" with balance {event.new_balance:.4f}"
    key = f", key {event.request_id}" if event.request_id else ""
    return f"{event.type} {event.moved:+.4f}{balance}{key}"
