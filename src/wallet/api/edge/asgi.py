"""The outermost layer: what is true of every request, whatever its route.

Phases of a request: name it (correlation ids) → take in its body, with limits → hand it to the routes → answer a
refusal or a bug as a problem → count, log and audit it. The body is read here and not in a handler because the
framework waits for its first byte, without a limit, before any code of ours runs.

Nothing here is cancelled because a client went away: the effect does not depend on the client.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import falcon.asgi
import msgspec
import structlog

from wallet.api.contract.problems import CONTENT_TYPE, RETRY_AFTER_SECONDS, Code, Refused
from wallet.api.contract.requests import key_in_header
from wallet.api.edge.client_ip import Network, client_ip
from wallet.api.edge.exchange import SCOPE_KEY, UNMATCHED_ROUTE, Exchange, Scope
from wallet.api.edge.incoming import (
    BodyBudget,
    BodyLimits,
    BodyTimer,
    Message,
    Receive,
    decoded_path,
    receive_body,
    wallet_of_path,
)
from wallet.api.edge.trail_records import refused_record_of, trail_record_of
from wallet.domain.identifiers import RequestId, WalletId
from wallet.runtime.logs import log_struct
from wallet.runtime.metrics import Histogram, Metrics
from wallet.trail.buffer import TrailBuffer
from wallet.trail.records import TrailRow

Send = Callable[[Message], Awaitable[None]]
MayConcern = Callable[[WalletId | None, RequestId | None], bool]
"""Whether a request, of which a wallet and a key are known or None, may have a key that may still take effect."""

_BODY_WAS_READ: Final[Message] = {"type": "http.request", "body": b"", "more_body": False}
PATH_LENGTH_LOGGED_MAX: Final = 200
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"})
REQUEST_SECONDS: Final = Histogram(
    "wallet_http_request_seconds",
    "Time from the first byte of a request to the last of its answer; its count is that of the requests.",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    process="api",
    labels=("method", "route", "status"),
)
_NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")


class _RequestLine(msgspec.Struct, omit_defaults=True):
    """The fields of a request's line in the log. Those that are None are left out."""

    method: str
    path: str
    status: int
    ms: float
    client: str
    wallet_id: WalletId | None = None
    request_id: RequestId | None = None
    correlation_id: str | None = None


class Edge:
    """The ASGI application that is served: the routes, and around them what every request needs."""

    def __init__(
        self,
        routes: falcon.asgi.App[Any, Any],
        *,
        metrics: Metrics,
        trail_buffer: TrailBuffer,
        trusted_proxies: Sequence[Network],
        limits: BodyLimits,
        may_concern: MayConcern,
        logs_requests: bool = True,
    ) -> None:
        self.routes = routes
        self._may_concern = may_concern
        self._logs_requests = logs_requests
        self._budget = BodyBudget(limits.bodies_bytes_max)
        self._timer = BodyTimer(limits.body_seconds_max)
        self._metrics = metrics
        self._trail_buffer = trail_buffer
        self._trusted_proxies = trusted_proxies
        self._limits = limits
        # Bound once: looking up the configuration for each line costs as much as the line.
        self._log = structlog.get_logger("wallet.api").bind()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; messages about the server's life go straight to the framework."""
        if scope["type"] != "http":
            await self.routes(scope, receive, send)
            return
        started = time.perf_counter()
        exchange = scope[SCOPE_KEY] = Exchange(scope)
        exchange.client_ip = client_ip(exchange.peer, exchange.headers.get("x-forwarded-for"), self._trusted_proxies)
        # Known before the body, so that a refusal of the body itself can name it.
        exchange.request_id = key_in_header(exchange)
        reply = _Reply(exchange, send)
        try:
            await receive_body(exchange, receive, self._limits, budget=self._budget, timer=self._timer)
            _prepare(scope, exchange)
            await self.routes(scope, _body_was_read, reply.send)
        except Refused as refused:
            await reply.refuse(self._described(refused, exchange))
        except Exception:  # noqa: BLE001 - the process's loop over requests: it logs, answers, and goes on
            self._log.exception("request_failed", route=exchange.route, correlation_id=exchange.correlation_id)
            await reply.refuse(_OUR_BUG)
        finally:
            self._budget.release(exchange)
        self._finish(exchange, reply, time.perf_counter() - started)

    def _described(self, refused: Refused, exchange: Exchange) -> Refused:
        """A refusal before the routes, as what may be said of the request's key, of which perhaps a part is known."""
        if (
            refused.code is Code.NOT_EXECUTED
            and exchange.route == UNMATCHED_ROUTE
            and self._may_concern(wallet_of_path(exchange.raw_path), exchange.request_id)
        ):
            detail = f"{refused.detail} An earlier attempt with this key may still take effect."
            return Refused(Code.OUTCOME_UNKNOWN, detail, headers=refused.headers)
        return refused

    def _finish(self, exchange: Exchange, reply: "_Reply", seconds: float) -> None:
        method = exchange.method if exchange.method in _METHODS else "other"
        self._metrics.observe(REQUEST_SECONDS, seconds, method, exchange.route, str(reply.status))
        if exchange.method == "POST" and not exchange.is_recorded:
            self._audit(exchange, reply)
        if self._logs_requests or reply.status >= 500:
            line = _RequestLine(
                exchange.method,
                exchange.raw_path[:PATH_LENGTH_LOGGED_MAX].decode("latin-1"),
                reply.status,
                round(seconds * 1000, 3),
                exchange.client_ip,
                exchange.wallet_id,
                exchange.request_id,
                exchange.correlation_id,
            )
            log_struct("warning" if reply.status >= 500 else "info", "request", line)

    def _audit(self, exchange: Exchange, reply: "_Reply") -> None:
        if reply.status < 500:
            self._trail_buffer.add_refused(TrailRow(refused_record_of(exchange), reply.status))
        elif reply.code is Code.OUTCOME_UNKNOWN:
            self._trail_buffer.add_deferred(TrailRow(trail_record_of(exchange), reply.status))
        else:
            self._trail_buffer.add(TrailRow(trail_record_of(exchange), reply.status))


class _Reply:
    """Sends the answer, with the headers that every answer carries, and remembers what was said."""

    __slots__ = ("_exchange", "_has_begun", "_send", "code", "status")

    def __init__(self, exchange: Exchange, send: Send) -> None:
        self._exchange = exchange
        self._send = send
        self._has_begun = False
        self.status = 500
        self.code: Code | None = None

    async def send(self, message: Message) -> None:
        """Pass on a message of the framework."""
        if message["type"] == "http.response.start":
            self._has_begun = True
            self.status = message["status"]
            message["headers"] = [*message["headers"], *self._common_headers()]
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        """Answer with a problem; where an answer has begun already, only the server can break it off."""
        if self._has_begun:
            return
        self.code = refused.code
        body = refused.body(self._exchange.request_id)
        headers = {"content-type": CONTENT_TYPE, "content-length": str(len(body)), **refused.headers}
        if refused.status == 503:
            headers["retry-after"] = RETRY_AFTER_SECONDS
        await self.send(
            {
                "type": "http.response.start",
                "status": refused.status,
                "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            }
        )
        is_head = self._exchange.method == "HEAD"
        await self._send({"type": "http.response.body", "body": b"" if is_head else body})

    def _common_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return (
            (b"x-request-id", self._exchange.correlation_id.encode()),
            (b"traceparent", self._exchange.traceparent.encode()),
            _NO_SNIFFING,
        )


def _prepare(scope: Scope, exchange: Exchange) -> None:
    """What the server leaves undone: a strict path, the version's full name; our own code reads the query."""
    if b"%" in exchange.raw_path:
        scope["path"] = decoded_path(exchange.raw_path)
    if scope["http_version"] == "1":
        scope["http_version"] = "1.0"
    scope["query_string"] = b""


async def _body_was_read() -> Message:
    return _BODY_WAS_READ


_OUR_BUG: Final = Refused(Code.INTERNAL_ERROR, "Something went wrong on our side. It was logged.")
