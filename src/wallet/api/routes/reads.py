"""The routes that read: a wallet's balance, its history, its totals."""

from datetime import UTC, datetime
from typing import Final

import falcon.asgi
import msgspec

from wallet.api.contract.paging import PARAMETERS, Page, format_cursor, read_page
from wallet.api.contract.problems import Code, Refused
from wallet.api.contract.requests import read_wallet_id
from wallet.api.contract.schemas import JSON, HistoryItem, StatsResponse, WalletResponse
from wallet.api.edge.exchange import exchange_of
from wallet.domain.identifiers import WalletId
from wallet.domain.money import ZERO, format_money
from wallet.postgres.connections import Pool
from wallet.queries.history import StoredEvent, history_of
from wallet.queries.reading import ReadFailed
from wallet.queries.stats import stats_of
from wallet.queries.wallets import balance_of


class Wallets:
    """GET /wallet/{id}"""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, wallet_id: str) -> None:
        """The wallet's balance now."""
        known_id = read_wallet_id(exchange_of(req.scope), wallet_id)
        try:
            balance = await balance_of(self._pool, known_id)
        except ReadFailed as error:
            raise _unavailable(error) from None
        _answer(resp, WalletResponse(known_id, format_money(balance or ZERO), balance is not None))

    on_head = on_get


class Histories:
    """GET /wallet/{id}/history"""

    parameters: Final = PARAMETERS

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, wallet_id: str) -> None:
        """The wallet's events, newest first."""
        exchange = exchange_of(req.scope)
        known_id = read_wallet_id(exchange, wallet_id)
        page = read_page(exchange.parameters)
        try:
            # One more than asked for tells whether there is a next page.
            events = await history_of(
                self._pool,
                known_id,
                limit=page.limit + 1,
                below_version=page.below_version,
                before=page.before,
            )
        except ReadFailed as error:
            raise _unavailable(error) from None
        if len(events) > page.limit:
            resp.set_header("Link", _link_to_next(known_id, page, events[page.limit - 1].version))
        _answer(resp, [_history_item(known_id, event) for event in events[: page.limit]])

    on_head = on_get


class Stats:
    """GET /wallet/{id}/stats"""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, wallet_id: str) -> None:
        """What the worker has counted so far."""
        known_id = read_wallet_id(exchange_of(req.scope), wallet_id)
        try:
            stats = await stats_of(self._pool, known_id)
        except ReadFailed as error:
            raise _unavailable(error) from None
        _answer(
            resp,
            StatsResponse(
                wallet_id=known_id,
                total_deposited=format_money(stats.total_deposited),
                total_withdrawn=format_money(stats.total_withdrawn),
                total_transferred_out=format_money(stats.total_transferred_out),
                total_transferred_in=format_money(stats.total_transferred_in),
                last_activity_at=_known_time(stats.last_activity_at),
                suspicious=stats.is_suspicious,
                suspicious_reason=stats.suspicious_reason,
                created_at=_known_time(stats.created_at),
                updated_at=_known_time(stats.updated_at),
                as_of=_known_time(stats.as_of),
            ),
        )

    on_head = on_get


def format_time(moment: datetime) -> str:
    """A time as it leaves the service: RFC 3339, UTC, always six digits of a second."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def _known_time(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)


def _history_item(wallet_id: WalletId, event: StoredEvent) -> HistoryItem:
    return HistoryItem(
        id=str(event.event_id),
        wallet_id=wallet_id,
        transfer_id=None if event.transfer_id is None else str(event.transfer_id),
        type=event.type,
        occurred_at=format_time(event.occurred_at),
        payload=msgspec.Raw(event.payload_json.encode()),
    )


def _link_to_next(wallet_id: WalletId, page: Page, below_version: int) -> str:
    cursor = format_cursor(below_version)
    return f'</wallet/{wallet_id}/history?limit={page.limit}&cursor={cursor}>; rel="next"'


def _answer(resp: falcon.asgi.Response, shape: object) -> None:
    resp.data = _encode(shape)
    resp.content_type = JSON
    # A balance is true only at the moment it is read.
    resp.set_header("Cache-Control", "no-store")


def _unavailable(error: ReadFailed) -> Refused:
    return Refused(Code.UNAVAILABLE, f"{error} Nothing was changed. Try again.")


_encode: Final = msgspec.json.Encoder().encode
