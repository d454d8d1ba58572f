"""The routes for people and machines that watch: health, metrics, the OpenAPI document and its Swagger UI."""

from collections.abc import Mapping
from typing import Any, Final

import falcon
import falcon.asgi
import msgspec

from wallet.api.contract.problems import Code, Refused
from wallet.api.contract.schemas import JSON, AliveResponse
from wallet.api.edge.exchange import exchange_of
from wallet.api.routes.health import Health, ready_response
from wallet.api.routes.static_files import StaticFile
from wallet.api.routes.swagger import Asset, page_headers
from wallet.runtime.metrics import CONTENT_TYPE as METRICS_CONTENT_TYPE
from wallet.runtime.metrics import Metrics

_REVALIDATE: Final = "no-cache"
_KEEP_AN_HOUR: Final = "max-age=3600"


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
        _answer(resp, await ready_response(self._health))

    on_head = on_get


class MetricsPage:
    """GET /metrics"""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Everything Prometheus scrapes."""
        resp.data = await self._metrics.text()
        resp.content_type = METRICS_CONTENT_TYPE

    on_head = on_get


class Home:
    """GET /"""

    def __init__(self, *, has_pages: bool) -> None:
        self._has_pages = has_pages

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Lead to the documentation, which is what somebody who opens the bare address looks for."""
        if not self._has_pages:
            raise Refused(Code.ROUTE_NOT_FOUND, "There is no page here. The API is described at /openapi.json.")
        # Not a permanent redirect, which a browser would still follow when another page is here one day.
        resp.status = falcon.HTTP_302
        resp.set_header("Location", "/docs")
        resp.content_type = falcon.MEDIA_TEXT
        resp.data = b"The documentation is at /docs, the OpenAPI document at /openapi.json.\n"

    on_head = on_get


class Document:
    """GET /openapi.json, GET /docs-json"""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._file = StaticFile(_encode(document), JSON, cache_control=_REVALIDATE)

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """The contract of this API."""
        await self._file.answer(exchange_of(req.scope), resp)

    on_head = on_get


class SwaggerPage:
    """GET /docs, GET /api"""

    def __init__(self, assets: Mapping[str, Asset]) -> None:
        page = assets["index.html"]
        self._file = StaticFile(page.content, page.content_type, cache_control=_REVALIDATE)

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """The page, which loads everything else from here."""
        await self._file.answer(exchange_of(req.scope), resp)
        for name, value in page_headers().items():
            resp.set_header(name, value)

    on_head = on_get


class SwaggerAssets:
    """GET /docs/assets/{name}"""

    def __init__(self, assets: Mapping[str, Asset]) -> None:
        self._files = {
            name: StaticFile(asset.content, asset.content_type, cache_control=_KEEP_AN_HOUR)
            for name, asset in assets.items()
        }

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
        """One of the page's files."""
        file = self._files.get(name)
        if file is None:
            raise falcon.HTTPNotFound
        await file.answer(exchange_of(req.scope), resp)

    on_head = on_get


def _answer(resp: falcon.asgi.Response, shape: object) -> None:
    resp.data = _encode(shape)
    resp.content_type = JSON
    resp.set_header("Cache-Control", "no-store")


_encode: Final = msgspec.json.Encoder().encode
