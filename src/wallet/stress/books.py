"""What the service shows of a wallet: balance, history and totals, read over HTTP and parsed once.

The pages of a history are followed by their Link header. A service without one is paged by `before`, each page
overlapping the last by a millisecond: its times may be no finer than that, and nothing may fall between two pages.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from urllib.parse import urlencode

from wallet.stress.client import Client, Page, Unreadable
from wallet.stress.operations import WalletId
from wallet.stress.outcomes import TOTAL_NAMES, ZERO, Totals

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
    # Zero where the first deposit is an event of its own; the deposit itself where it is not.
    "WalletCreated": 1,
}
"""Event type → the sign of its amount on the balance; other events move nothing."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a history; `moved` is signed, `new_balance` None where the service does not tell."""

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
    events: tuple[Event, ...] = ()


async def read_wallet(client: Client, wallet_id: WalletId) -> Shown:
    """The balance and the whole history. Raises Unreadable."""
    path = f"/wallet/{wallet_id}"
    page = await client.get(path)
    balance = ZERO if page.value is None else _money(path, page.value, "balance")
    return Shown(balance, await _read_history(client, wallet_id))


async def read_totals(client: Client, wallet_id: WalletId) -> Totals:
    """The worker's totals. Raises Unreadable."""
    path = f"/wallet/{wallet_id}/stats"
    stats = (await client.get(path)).value
    if stats is None:
        return Totals()
    return Totals(**{ours: _money(path, stats, theirs) for theirs, ours in TOTAL_NAMES.items()})


async def _read_history(client: Client, wallet_id: WalletId) -> tuple[Event, ...]:
    path = f"/wallet/{wallet_id}/history"
    newest_first: list[Event] = []
    known: set[str] = set()
    url: str | None = f"{path}?{urlencode({'limit': PAGE_LIMIT})}"
    for _ in range(PAGES_MAX):
        if url is None:
            return tuple(reversed(newest_first))
        page = await client.get(url)
        # An event that is listed twice on one page is the service's fault and stays; on two pages it is our overlap.
        events = [event for event in _events(path, page) if event.event_id not in known]
        newest_first += events
        known.update(event.event_id for event in events)
        url = page.next_url or _url_before(path, events)
    raise Unreadable(f"GET {path}: more than {PAGES_MAX} pages")


def _url_before(path: str, events: list[Event]) -> str | None:
    """The page that overlaps the end of these events; None where there were no new ones."""
    if not events:
        return None
    try:
        oldest = datetime.fromisoformat(events[-1].occurred_at)
    except ValueError as error:
        raise Unreadable(f"GET {path}: occurredAt is no RFC 3339 time: {events[-1].occurred_at!r}") from error
    before = (oldest + OVERLAP).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return f"{path}?{urlencode({'limit': PAGE_LIMIT, 'before': before})}"


def _events(path: str, page: Page) -> Iterator[Event]:
    if page.value is None:
        return
    if not isinstance(page.value, list):
        raise Unreadable(f"GET {path}: not a JSON array")
    for item in page.value:
        if not isinstance(item, dict) or not isinstance(item.get("payload"), dict):
            raise Unreadable(f"GET {path}: an event without a payload")
        yield _event(path, item, item["payload"])


def _event(path: str, item: dict[str, Any], payload: dict[str, Any]) -> Event:
    sign = SIGNS.get(str(item.get("type")), 0)
    return Event(
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
    """An amount, as a decimal string or as a JSON number.

    A number is taken at four places: a service that shows 0.30000000000000004 for the 0.3000 it stores spells money
    badly, and has lost none.
    """
    value = fields.get(name) if isinstance(fields, dict) else None
    if isinstance(value, str | int | Decimal) and not isinstance(value, bool):
        try:
            money = Decimal(value)
            if abs(money) < MONEY_MAX:
                return money if isinstance(value, str) else money.quantize(QUANTUM)
        except InvalidOperation:
            pass
    raise Unreadable(f"GET {path}: {name} is not an amount of money: {value!r}")
