"""The outermost layer, which does what every request needs, whatever its route.

Phases of a request: assign ids → find its route → check its key → read its body, with limits → call the route's handler
→ answer a refusal or a bug as a problem → count, log and record it. If there is no such route, the body is still read
before the refusal, so that the connection can be reused.

A client that disconnects cancels nothing here: the effect does not depend on the client.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final

import msgspec
import structlog

from wallet.api.contract.bodies import key_in_header
from wallet.api.contract.problems import CONTENT_TYPE, RETRY_AFTER_SECONDS, Code, Refused
from wallet.api.contract.reply import Reply
from wallet.api.edge.exchange import UNMATCHED_ROUTE, Exchange, Network, Scope, client_ip
from wallet.api.edge.gate import Gate
from wallet.api.edge.incoming import (
    BodyBudget,
    BodyLimits,
    BodyTimer,
    Message,
    Receive,
    decoded_path,
    receive_body,
)
from wallet.api.edge.router import NO_SUCH_ROUTE, Resource, Router
from wallet.api.edge.trail_records import refused_record_of, trail_record_of
from wallet.api.services import Services
from wallet.domain.identifiers import RequestId, WalletId, is_id
from wallet.runtime.addresses import client_of
from wallet.runtime.logs import log_struct
from wallet.runtime.metrics import Histogram, Metrics
from wallet.trail.buffer import TrailBuffer
from wallet.trail.records import TrailRow

Send = Callable[[Message], Awaitable[None]]
PATH_LENGTH_LOGGED_MAX: Final = 200
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"})
REQUEST_SECONDS: Final = Histogram(
    "wallet_http_request_seconds",
    "Time from the first byte of a request to the last of its answer; its count is that of the requests.",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    process="api",
    labels=("method", "route", "status"),
)
PIECE_BYTES: Final = 32 * 1024
"""For a slow client, the server keeps a copy of only one piece that the client has not received yet."""
_NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")


class _RequestLine(msgspec.Struct, omit_defaults=True):
    """The fields of a request's log line. Fields that are None are omitted."""

    method: str
    path: str
    status: int
    ms: float
    client: str
    wallet_id: WalletId | None = None
    request_id: RequestId | None = None
    correlation_id: str | None = None


class Edge:
    """The ASGI application: the routes, and the processing around them that every request needs."""

    def __init__(
        self,
        router: Router,
        services: Services,
        *,
        gate: Gate,
        metrics: Metrics,
        trail_buffer: TrailBuffer,
        trusted_proxies: Sequence[Network],
        limits: BodyLimits,
        logs_requests: bool = True,
    ) -> None:
        self._router = router
        self._gate = gate
        self._services = services
        self._logs_requests = logs_requests
        self._budget = BodyBudget(limits.bodies_bytes_max)
        self._timer = BodyTimer(limits.body_seconds_max)
        self._metrics = metrics
        self._trail_buffer = trail_buffer
        self._trusted_proxies = trusted_proxies
        self._limits = limits
        # Bound once, because looking up the configuration for each line costs as much as the line.
        self._log = structlog.get_logger("wallet.api").bind()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = time.perf_counter()
        exchange = Exchange(scope)
        exchange.client_ip = client_ip(exchange.peer, exchange.headers.get("x-forwarded-for"), self._trusted_proxies)
        exchange.client = client_of(exchange.client_ip)
        answering = _Answering(exchange, send)
        try:
            found = self._find(exchange)
            if isinstance(found, Resource):
                self._admit(found, exchange)
            is_bulk = isinstance(found, Resource) and found.has_bulk_body
            if not is_bulk:
                # Set before the body is read, so that a refusal of the body itself can name the key.
                exchange.request_id = key_in_header(exchange)
            await receive_body(
                exchange,
                receive,
                self._limits,
                budget=self._budget,
                timer=self._timer,
                is_bulk=is_bulk,
            )
            if isinstance(found, Refused):
                raise found
            await answering.send(await self._reply(found, exchange))
        except Refused as refused:
            await answering.refuse(self._described(refused, exchange))
        except Exception:  # noqa: BLE001 - the process's loop over requests: it logs the error, answers, and continues
            self._log.exception("request_failed", route=exchange.route, correlation_id=exchange.correlation_id)
            await answering.refuse(_OUR_BUG)
        finally:
            self._gate.leave(exchange)
            self._budget.release(exchange)
        self._finish(exchange, answering, time.perf_counter() - started)

    def _find(self, exchange: Exchange) -> Resource | Refused:
        """Returns the resource that the path names, or the refusal, which is sent after the body is read."""
        raw_path = exchange.raw_path
        try:
            path = decoded_path(raw_path) if b"%" in raw_path else raw_path.decode("utf-8", "strict")
        except UnicodeDecodeError:
            return Refused(Code.ROUTE_NOT_FOUND, NO_SUCH_ROUTE)
        except Refused as refused:
            return refused
        resource, exchange.path_values = self._router.find(path)
        return resource or Refused(Code.ROUTE_NOT_FOUND, NO_SUCH_ROUTE)

    def _admit(self, resource: Resource, exchange: Exchange) -> None:
        try:
            self._gate.admit(exchange, resource.access_of(exchange.method))
        except Refused:
            exchange.route = resource.path
            raise

    async def _reply(self, resource: Resource, exchange: Exchange) -> Reply:
        exchange.route = resource.path
        route = resource.route_for(exchange)
        if route is None:
            return Reply(b"", "", HTTPStatus.NO_CONTENT, (("Allow", resource.allowed),))
        return await route.handler(self._services, exchange)

    def _described(self, refused: Refused, exchange: Exchange) -> Refused:
        """Returns a refusal from before the routes, with a text that fits what is known of the request's wallet and
        key.
        """
        if refused.code is Code.NOT_EXECUTED and exchange.route == UNMATCHED_ROUTE:
            wallet_id = exchange.path_values.get("id", "")
            known_id = WalletId(wallet_id) if is_id(wallet_id) else None
            # Whether somebody's key is in use on a wallet that the principal may not use must not show.
            is_foreign = wallet_id != "" and not exchange.principal.may_use(wallet_id)
            if not is_foreign and self._services.may_concern(known_id, exchange.request_id):
                detail = f"{refused.detail} An earlier attempt with this key may still take effect."
                return Refused(Code.OUTCOME_UNKNOWN, detail, headers=refused.headers)
        return refused

    def _finish(self, exchange: Exchange, answering: "_Answering", seconds: float) -> None:
        method = exchange.method if exchange.method in _METHODS else "other"
        self._metrics.observe(REQUEST_SECONDS, seconds, method, exchange.route, str(answering.status))
        if exchange.method == "POST" and not exchange.is_recorded and answering.code not in _COUNTED_ONLY:
            self._record(exchange, answering)
        if self._logs_requests or answering.status >= 500:
            line = _RequestLine(
                exchange.method,
                exchange.raw_path[:PATH_LENGTH_LOGGED_MAX].decode("latin-1"),
                answering.status,
                round(seconds * 1000, 3),
                exchange.client_ip,
                exchange.wallet_id,
                exchange.request_id,
                exchange.correlation_id,
            )
            log_struct("warning" if answering.status >= 500 else "info", "request", line)

    def _record(self, exchange: Exchange, answering: "_Answering") -> None:
        if answering.status < HTTPStatus.INTERNAL_SERVER_ERROR or answering.code is Code.NOT_EXECUTED:
            self._trail_buffer.add_refused(TrailRow(refused_record_of(exchange), answering.status))
        elif answering.code is Code.OUTCOME_UNKNOWN and not exchange.has_reached_ledger:
            # The request itself moved nothing: only an earlier attempt, which has its own row, may still take effect.
            self._trail_buffer.add_refused(TrailRow(refused_record_of(exchange), answering.status))
        elif answering.code is Code.OUTCOME_UNKNOWN:
            self._trail_buffer.add_deferred(TrailRow(trail_record_of(exchange), answering.status))
        else:
            self._trail_buffer.add(TrailRow(trail_record_of(exchange), answering.status))


class _Answering:
    """Sends the answer, with the headers that every answer carries, and remembers its status and code."""

    __slots__ = ("_exchange", "_has_begun", "_send", "code", "status")

    def __init__(self, exchange: Exchange, send: Send) -> None:
        self._exchange = exchange
        self._send = send
        self._has_begun = False
        self.status = 500
        self.code: Code | None = None

    async def send(self, reply: Reply) -> None:
        """Send a handler's reply. A reply without a content type has no body."""
        headers = [(name.lower().encode(), value.encode()) for name, value in reply.headers]
        if reply.content_type:
            headers.append((b"content-type", reply.content_type.encode()))
            headers.append((b"content-length", b"%d" % len(reply.body)))
        self._has_begun = True
        self.status = reply.status
        await self._send(
            {"type": "http.response.start", "status": int(reply.status), "headers": [*headers, *self._common_headers()]}
        )
        body = b"" if self._exchange.method == "HEAD" else reply.body
        if reply.is_in_pieces:
            for start in range(0, len(body), PIECE_BYTES):
                piece = body[start : start + PIECE_BYTES]
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            body = b""
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(self, refused: Refused) -> None:
        """Answer with a problem. If an answer has already begun, only the server can abort it."""
        if self._has_begun:
            return
        self.code = refused.code
        retry = (("Retry-After", RETRY_AFTER_SECONDS),) if refused.status == HTTPStatus.SERVICE_UNAVAILABLE else ()
        headers = (*refused.headers.items(), *retry)
        await self.send(Reply(refused.body(self._exchange.request_id), CONTENT_TYPE, refused.status, headers))

    def _common_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return (
            (b"x-request-id", self._exchange.correlation_id.encode()),
            (b"traceparent", self._exchange.traceparent.encode()),
            _NO_SNIFFING,
        )


_COUNTED_ONLY: Final = frozenset({Code.UNAUTHENTICATED, Code.FORBIDDEN, Code.RATE_LIMITED})
"""A request without permission has no row in the audit trail: anybody could fill it."""
_OUR_BUG: Final = Refused(Code.INTERNAL_ERROR, "Something went wrong on our side. It was logged.")
