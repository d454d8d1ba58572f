"""The routes for people and machines that watch: health, metrics, the OpenAPI document and its Swagger UI."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import falcon
import falcon.asgi
import msgspec

from wallet.api.audits import Audits
from wallet.api.health import Health
from wallet.api.metrics import CONTENT_TYPE as METRICS_CONTENT_TYPE
from wallet.api.metrics import Metrics
from wallet.api.problems import Code, FieldError, Refused
from wallet.api.schemas import JSON, AliveResponse, ReadyResponse
from wallet.api.shared import Shared
from wallet.api.swagger import Asset, page_headers
from wallet.queries.reading import ReadFailed

METRICS_SECONDS: Final = 1.0
"""A scrape may be this old: rendering takes milliseconds of the event loop, and anyone may ask for it."""
AUDIT_SECONDS_MAX: Final = 2.0
"""A scrape waits no longer for the database; what the processes counted themselves is told without it."""

PIECE_BYTES: Final = 32 * 1024


class Alive:
    """GET /healthz"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """The process answers."""
        _answer(resp, AliveResponse())

    on_head = on_get


class Ready:
    """GET /readyz"""

    def __init__(self, health: Health) -> None:
        self._health = health

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Whether requests can be served; 503 names what failed."""
        readiness = await self._health.readiness()
        if not readiness.is_ready:
            failed = [check for check in readiness.checks if check.status == "failed"]
            raise Refused(
                Code.NOT_READY,
                "; ".join(f"{check.name}: {check.detail}" for check in failed),
                errors=[FieldError(Code.NOT_READY, check.detail, check=check.name) for check in failed],
            )
        _answer(resp, ReadyResponse("degraded" if readiness.is_degraded else "ready", readiness.checks))

    on_head = on_get


class MetricsPage:
    """GET /metrics"""

    def __init__(self, metrics: Metrics, audits: Audits) -> None:
        self._metrics = metrics
        self._audits = audits
        self._text = Shared(self._render, seconds=METRICS_SECONDS)

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Everything Prometheus scrapes."""
        resp.data = await self._text.get()
        resp.content_type = METRICS_CONTENT_TYPE

    on_head = on_get

    async def _render(self) -> bytes:
        try:
            async with asyncio.timeout(AUDIT_SECONDS_MAX):
                self._metrics.show_audit(await self._audits.report())
        except (ReadFailed, TimeoutError):
            self._metrics.show_audit(None)
        return self._metrics.render()


class Document:
    """GET /openapi.json"""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._body = _encode(document)

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """The contract of this API."""
        resp.data = self._body
        resp.content_type = JSON

    on_head = on_get


class SwaggerPage:
    """GET /docs, GET /api"""

    def __init__(self, assets: Mapping[str, Asset]) -> None:
        self._page = assets["index.html"]

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """The page, which loads everything else from here."""
        resp.data = self._page.content
        resp.content_type = self._page.content_type
        for name, value in page_headers().items():
            resp.set_header(name, value)

    on_head = on_get


class SwaggerAssets:
    """GET /docs/assets/{name}"""

    def __init__(self, assets: Mapping[str, Asset]) -> None:
        self._assets = assets

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
        """One of the page's files."""
        asset = self._assets.get(name)
        if asset is None:
            raise falcon.HTTPNotFound
        resp.content_length = len(asset.content)
        if req.method != "HEAD":
            resp.stream = _in_pieces(asset.content)
        resp.content_type = asset.content_type
        resp.set_header("Cache-Control", "max-age=3600")

    on_head = on_get


async def _in_pieces(content: bytes) -> AsyncIterator[bytes]:
    """The content in pieces: of what a slow client has not taken yet, the server keeps a copy of one piece only."""
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]


def _answer(resp: falcon.asgi.Response, shape: object) -> None:
    resp.data = _encode(shape)
    resp.content_type = JSON
    resp.set_header("Cache-Control", "no-store")


_encode: Final = msgspec.json.Encoder().encode
