"""The routes that read: a wallet's balance, its history, its totals."""

from datetime import datetime
from functools import partial
from typing import Final

import msgspec

from wallet.access.principal import Principal, Scope
from wallet.api.contract.bodies import read_wallet_id
from wallet.api.contract.examples import STATS
from wallet.api.contract.paging import CURSOR, LIMIT, Order, page_reply, positive_number, read_page
from wallet.api.contract.problems import Code, Refused
from wallet.api.contract.reply import Reply, format_time, json_reply
from wallet.api.contract.route import READ, WALLET_ID, Parameter, Route
from wallet.api.contract.schemas import HistoryItem, StatsResponse, WalletResponse
from wallet.api.edge.exchange import Exchange
from wallet.api.services import Services
from wallet.domain.identifiers import WalletId
from wallet.domain.money import ZERO, format_money
from wallet.queries.reading import ReadFailed
from wallet.queries.wallets import HistoryEvent, balance_of, history_of, stats_of

_NO_WALLET: Final = WalletId("")
BY_VERSION: Final = Order("v", positive_number)
"""The order of a history, newest first: a cursor contains the last version of a page."""


async def get_wallet(services: Services, exchange: Exchange) -> Reply:
    """Returns the current balance."""
    wallet_id = read_wallet_id(exchange)
    try:
        balance = await balance_of(services.reads, _shown(exchange, wallet_id))
    except ReadFailed as error:
        raise _unavailable(error) from None
    return json_reply(WalletResponse(wallet_id, format_money(balance or ZERO), balance is not None))


async def get_history(services: Services, exchange: Exchange) -> Reply:
    """Returns a page of events, newest first."""
    wallet_id = read_wallet_id(exchange)
    page = read_page(exchange.parameters, BY_VERSION)
    try:
        # One more event is read, to find out whether there is a next page.
        events = await history_of(
            services.reads,
            _shown(exchange, wallet_id),
            limit=page.limit + 1,
            below_version=page.after,
            before=page.before,
        )
    except ReadFailed as error:
        raise _unavailable(error) from None
    return page_reply(
        f"/wallet/{wallet_id}/history",
        page,
        BY_VERSION,
        events,
        key_of=lambda event: event.version,
        shape_of=partial(_history_item, exchange.principal, wallet_id),
    )


async def get_stats(services: Services, exchange: Exchange) -> Reply:
    """Returns the totals counted so far."""
    wallet_id = read_wallet_id(exchange)
    try:
        stats = await stats_of(services.reads, _shown(exchange, wallet_id))
    except ReadFailed as error:
        raise _unavailable(error) from None
    return json_reply(
        StatsResponse(
            wallet_id=wallet_id,
            total_deposited=format_money(stats.total_deposited),
            total_withdrawn=format_money(stats.total_withdrawn),
            total_transferred_out=format_money(stats.total_transferred_out),
            total_transferred_in=format_money(stats.total_transferred_in),
            last_activity_at=_known_time(stats.last_activity_at),
            suspicious=stats.is_suspicious,
            suspicious_reason=stats.suspicious_reason if exchange.principal.has(Scope.RISK) else None,
            created_at=_known_time(stats.created_at),
            updated_at=_known_time(stats.updated_at),
            as_of=_known_time(stats.as_of),
        )
    )


def _shown(exchange: Exchange, wallet_id: WalletId) -> WalletId:
    """Returns the wallet to read: for one that the key may not use, one that never exists, which takes as long."""
    return wallet_id if exchange.principal.may_use(wallet_id) else _NO_WALLET


def _known_time(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)


def _history_item(principal: Principal, wallet_id: WalletId, event: HistoryEvent) -> HistoryItem:
    return HistoryItem(
        id=str(event.event_id),
        wallet_id=wallet_id,
        transfer_id=None if event.transfer_id is None else str(event.transfer_id),
        type=event.type,
        occurred_at=format_time(event.occurred_at),
        payload=msgspec.Raw(_shown_payload(principal, wallet_id, event)),
    )


def _shown_payload(principal: Principal, wallet_id: WalletId, event: HistoryEvent) -> bytes:
    """Returns the payload. In an event that a transfer caused in its receiver's history the sender's key is null,
    unless the principal may read the sender's wallet.
    """
    if principal.may_read_all:
        return event.payload_json.encode()
    payload = msgspec.json.decode(event.payload_json)
    sender = payload.get("fromWalletId", event.created_by_wallet_id)
    if sender is None or sender == wallet_id or principal.may_read(sender):
        return event.payload_json.encode()
    return msgspec.json.encode(payload | {"requestId": None})


def _unavailable(error: ReadFailed) -> Refused:
    return Refused(Code.UNAVAILABLE, f"{error} Nothing was changed. Try again.")


_BEFORE: Final = Parameter(
    "before",
    "query",
    "Only events earlier than this RFC 3339 time, exact to the microsecond. Cannot be combined with `cursor`.",
    {"type": "string", "format": "date-time"},
)

_STATS_DESCRIPTION: Final = """\
The totals that a worker has counted. A change of the wallet is usually counted within a second. Every change that was \
answered before `asOf` is counted. `asOf` advances about twice a second under load, and every few seconds without \
load. It does not advance while no worker runs, nor while the event of any wallet waits as a dead letter.
"""

ROUTES: Final = (
    Route(
        method="GET",
        path="/wallet/{id}",
        handler=get_wallet,
        access=Scope.READ,
        operation_id="getWallet",
        tag="reading",
        summary="Balance",
        description="A wallet that does not exist has the balance 0.0000 and `exists` false.",
        parameters=(WALLET_ID,),
        success="The current balance.",
        response=WalletResponse,
        response_example={"walletId": "alice", "balance": "100.5000", "exists": True},
        codes=READ,
    ),
    Route(
        method="GET",
        path="/wallet/{id}/history",
        handler=get_history,
        access=Scope.READ,
        operation_id="getHistory",
        tag="reading",
        summary="History",
        description="The wallet's events, newest first, in the order of the wallet's versions.",
        parameters=(WALLET_ID, LIMIT, CURSOR, _BEFORE),
        success="A page of events.",
        response=list[HistoryItem],
        headers=("Link",),
        codes=READ,
    ),
    Route(
        method="GET",
        path="/wallet/{id}/stats",
        handler=get_stats,
        access=Scope.READ,
        operation_id="getStats",
        tag="reading",
        summary="Statistics",
        description=_STATS_DESCRIPTION,
        parameters=(WALLET_ID,),
        success="The totals.",
        response=StatsResponse,
        response_example=STATS,
        codes=READ,
    ),
)
