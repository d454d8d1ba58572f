"""The admin listener of a process: /healthz, /readyz and /metrics, on a port of their own.

Probes and scrapers get their answers whatever the load on the public listener is. It is off unless ADMIN_PORT is set,
and it listens on loopback unless ADMIN_HOST names another address.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import structlog

from wallet.api.contract.problems import CONTENT_TYPE as PROBLEM_TYPE
from wallet.api.contract.problems import Code, Refused
from wallet.api.contract.query import read_parameters
from wallet.api.contract.schemas import JSON, AliveResponse
from wallet.api.edge.server import serve
from wallet.api.routes.health import Health, ready_response
from wallet.runtime.metrics import CONTENT_TYPE as METRICS_TYPE
from wallet.runtime.metrics import Metrics
from wallet.runtime.settings import Settings

PATHS: Final = ("/healthz", "/readyz", "/metrics")

_encode: Final = msgspec.json.Encoder().encode
_log = structlog.get_logger()


class Admin:
    """The ASGI application of the admin listener."""

    def __init__(self, health: Health, metrics: Metrics) -> None:
        self._health = health
        self._metrics = metrics

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one request."""
        method = scope["method"]
        try:
            if scope["path"] not in PATHS:
                raise Refused(Code.ROUTE_NOT_FOUND, f"There is no such route here; there are {', '.join(PATHS)}.")
            if method not in ("GET", "HEAD"):
                raise Refused(Code.METHOD_NOT_ALLOWED, "This route takes GET, HEAD.", headers={"Allow": "GET, HEAD"})
            if scope["query_string"]:
                read_parameters(scope["query_string"].decode("latin-1"), ())
            content_type, body = await self._answer(scope["path"])
            status, headers = 200, {"cache-control": "no-store"}
        except Refused as refused:
            status, content_type, body = refused.status, PROBLEM_TYPE, refused.body(None)
            headers = dict(refused.headers)
        headers |= {"content-type": content_type, "content-length": str(len(body))}
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})

    async def _answer(self, path: str) -> tuple[str, bytes]:
        """Returns the type and the body. Raises Refused."""
        match path:
            case "/healthz":
                return JSON, _encode(AliveResponse())
            case "/readyz":
                return JSON, _encode(await ready_response(self._health))
            case "/metrics":
                return METRICS_TYPE, await self._metrics.text()
            case _:
                raise AssertionError(f"{path} is one of PATHS and has no answer")


@asynccontextmanager
async def admin_listener(settings: Settings, health: Health, metrics: Metrics) -> AsyncIterator[None]:
    """While inside, the admin listener serves, if ADMIN_PORT is set. Raises PortInUse, CannotListen or ServerEnded."""
    if settings.admin_port is None:
        yield
        return
    stop, is_ready = asyncio.Event(), asyncio.Event()

    def note_ready(url: str) -> None:
        _log.info("admin_ready", url=url)
        is_ready.set()

    serving = asyncio.create_task(
        serve(
            Admin(health, metrics), host=settings.admin_host, port=settings.admin_port, stop=stop, on_ready=note_ready
        ),
        name="admin listener",
    )
    starting = asyncio.create_task(is_ready.wait())
    try:
        await asyncio.wait({serving, starting}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
        yield
    finally:
        starting.cancel()
        stop.set()
        await asyncio.wait({serving})
