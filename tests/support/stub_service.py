"""Serves the in-memory wallets under the wallet's routes: a real HTTP server in the test's event loop."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from aiohttp import web

from tests.support.ports import free_port
from tests.support.stub_wallets import Mode, StubWallets

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
PAGE_LIMIT_MAX = 100
REQUESTS_BEFORE_DEATH = 300
TOTALS_HIDDEN_FOR = 12


class StubService:
    """The handlers of the routes; `seen` counts the requests."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.wallets = StubWallets(mode)
        self.seen = 0

    @web.middleware
    async def die_in_time(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Drop the connection if the service is to behave as if it had died."""
        self.seen += 1
        if self.mode is Mode.DIES and self.seen > REQUESTS_BEFORE_DEATH:
            return _drop(request)
        response: web.StreamResponse = await handler(request)
        return response

    async def post(self, request: web.Request) -> web.StreamResponse:
        """POST /wallet/{id}/deposit|withdraw|transfer"""
        body = json.loads(await request.read(), parse_float=Decimal)
        if self.mode is Mode.FAILS and body["amount"] == int(body["amount"]):
            return web.json_response({"message": "division by zero"}, status=500)
        if self.mode is Mode.UNSURE and self.seen % 11 == 0:
            return web.json_response({"message": "later"}, status=503)
        status, answer, is_replay = self.wallets.execute(
            request.match_info["wallet_id"], request.match_info["kind"], body
        )
        if self.mode is Mode.UNSURE and self.seen % 7 == 0:
            return _drop(request)
        indent = 2 if is_replay and self.mode is Mode.RESPELLS_REPLAYS else None
        return web.Response(text=json.dumps(answer, indent=indent), status=status, content_type="application/json")

    async def get_wallet(self, request: web.Request) -> web.StreamResponse:
        """GET /wallet/{id}"""
        wallet_id = request.match_info["wallet_id"]
        exists = bool(self.wallets.events[wallet_id])
        return web.json_response(
            {"walletId": wallet_id, "balance": f"{self.wallets.balances[wallet_id]:.4f}", "exists": exists}
        )

    async def get_stats(self, request: web.Request) -> web.StreamResponse:
        """GET /wallet/{id}/stats"""
        self.wallets.counts["stats"] += 1
        names = ("totalDeposited", "totalWithdrawn", "totalTransferredOut", "totalTransferredIn")
        totals = self.wallets.totals[request.match_info["wallet_id"]]
        is_hidden = self.mode is Mode.LATE_WORKER and self.wallets.counts["stats"] <= TOTALS_HIDDEN_FOR
        return web.json_response({name: "0.0000" if is_hidden else f"{totals[name]:.4f}" for name in names})

    async def get_history(self, request: web.Request) -> web.StreamResponse:
        """GET /wallet/{id}/history"""
        wallet_id, query = request.match_info["wallet_id"], request.query
        limit = min(int(query.get("limit", "50")), PAGE_LIMIT_MAX)
        events = list(reversed(self.wallets.events[wallet_id]))
        if self.mode is Mode.REFERENCE_DIALECT:
            # Events of the same millisecond are in random order.
            events.sort(key=lambda event: (self._time(event), hash(event["number"] * 7919 % 101)), reverse=True)
        if "before" in query:
            before = datetime.fromisoformat(query["before"])
            events = [event for event in events if self._time(event) < before]
        start = int(query.get("cursor", "0"))
        page = [self._shown(wallet_id, event) for event in events[start : start + limit]]
        response = web.json_response(page)
        if start + limit < len(events) and self.mode is not Mode.REFERENCE_DIALECT:
            link = f'</wallet/{wallet_id}/history?limit={limit}&cursor={start + limit}>; rel="next"'
            response.headers["Link"] = link
        return response

    def _time(self, event: dict[str, Any]) -> datetime:
        moment = BEGINNING + timedelta(microseconds=400 * event["number"])
        if self.mode is Mode.REFERENCE_DIALECT:
            return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
        return moment

    def _shown(self, wallet_id: str, event: dict[str, Any]) -> dict[str, Any]:
        payload: dict[str, Any] = {"walletId": wallet_id, "amount": f"{abs(event['moved']):.4f}"}
        payload |= {"newBalance": f"{event['balance']:.4f}", "requestId": event["key"]}
        if self.mode is Mode.REFERENCE_DIALECT:
            payload["amount"], payload["newBalance"] = float(abs(event["moved"])), float(event["balance"]) + 1e-12
            if event["type"] in {"TransferDebited", "TransferCredited"}:
                del payload["requestId"]
            if event["type"] == "TransferInitiated":
                del payload["newBalance"]
        return {
            "id": event["id"],
            "walletId": wallet_id,
            "transferId": event["transfer_id"],
            "type": event["type"],
            "occurredAt": self._time(event).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "payload": payload,
        }


def _drop(request: web.Request) -> web.StreamResponse:
    """Close the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@asynccontextmanager
async def serve_stub(mode: Mode) -> AsyncIterator[str]:
    """Run the server. Yields its URL."""
    service = StubService(mode)
    app = web.Application(middlewares=[service.die_in_time])
    app.router.add_post("/wallet/{wallet_id}/{kind:deposit|withdraw|transfer}", service.post)
    app.router.add_get("/wallet/{wallet_id}", service.get_wallet)
    app.router.add_get("/wallet/{wallet_id}/stats", service.get_stats)
    app.router.add_get("/wallet/{wallet_id}/history", service.get_history)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()
