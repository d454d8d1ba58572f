"""The routes for monitoring and documentation: health, metrics, the OpenAPI document and its Swagger UI."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import msgspec

from wallet.access.principal import Access, Scope
from wallet.api.contract.openapi import document
from wallet.api.contract.problems import Code, Refused
from wallet.api.contract.reply import Reply, json_reply
from wallet.api.contract.route import ANY, Route
from wallet.api.contract.schemas import JSON, AliveResponse, ReadyResponse
from wallet.api.edge.exchange import Exchange
from wallet.api.routes.health import ready_response
from wallet.api.routes.static_files import StaticFile, load_assets, page_headers
from wallet.api.services import Services
from wallet.runtime.metrics import CONTENT_TYPE as METRICS_CONTENT_TYPE

_REVALIDATE: Final = "no-cache"
_KEEP_AN_HOUR: Final = "max-age=3600"
_DOCUMENT: Final = "openapi.json"
_PAGE: Final = "index.html"


def static_files(routes: Sequence[Route], *, has_swagger: bool) -> dict[str, StaticFile]:
    """Returns the OpenAPI document of these routes, and the files of its page, by name. Raises SwaggerMissing."""
    content: bytes = msgspec.json.encode(document(routes))
    files = {_DOCUMENT: StaticFile(content, JSON, cache_control=_REVALIDATE)}
    for name, asset in (load_assets() if has_swagger else {}).items():
        is_page = name == _PAGE
        files[name] = StaticFile(
            asset.content,
            asset.content_type,
            cache_control=_REVALIDATE if is_page else _KEEP_AN_HOUR,
            headers=tuple(page_headers().items()) if is_page else (),
        )
    return files


async def get_alive(services: Services, exchange: Exchange) -> Reply:
    """Returns the liveness."""
    return json_reply(AliveResponse())


async def get_ready(services: Services, exchange: Exchange) -> Reply:
    """Returns the readiness; a 503 names what failed."""
    return json_reply(await ready_response(services.health))


async def get_metrics(services: Services, exchange: Exchange) -> Reply:
    """Returns the metrics."""
    return Reply(await services.metrics.text(), METRICS_CONTENT_TYPE)


async def get_home(services: Services, exchange: Exchange) -> Reply:
    """Redirects to the documentation."""
    if _PAGE not in services.files:
        raise Refused(Code.ROUTE_NOT_FOUND, "There is no page here. The API is described at /openapi.json.")
    text = b"The documentation is at /docs, the OpenAPI document at /openapi.json.\n"
    # Not a permanent redirect: a browser would still follow it if another page replaces this one later.
    return Reply(text, "text/plain; charset=utf-8", HTTPStatus.FOUND, (("Location", "/docs"),))


async def get_document(services: Services, exchange: Exchange) -> Reply:
    """Returns the OpenAPI document."""
    return await services.files[_DOCUMENT].reply(exchange)


async def get_page(services: Services, exchange: Exchange) -> Reply:
    """Returns the page of Swagger UI."""
    return await services.files[_PAGE].reply(exchange)


async def get_asset(services: Services, exchange: Exchange) -> Reply:
    """Returns a file of Swagger UI."""
    file = services.files.get(exchange.path_values["name"])
    if file is None:
        raise Refused(Code.ROUTE_NOT_FOUND, "There is no such file.")
    return await file.reply(exchange)


ROUTES: Final = (
    Route(
        method="GET",
        path="/healthz",
        handler=get_alive,
        access=Access.PUBLIC,
        operation_id="isAlive",
        tag="operating",
        summary="Liveness",
        description="Checks the process only, and neither the database nor the broker.",
        success="The process is alive.",
        response=AliveResponse,
        codes=ANY,
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=get_ready,
        access=Access.PUBLIC,
        operation_id="isReady",
        tag="operating",
        summary="Readiness",
        description="A service that is `degraded` still serves requests: a broker that is down delays events and loses "
        "none.",
        success="The service is ready.",
        response=ReadyResponse,
        codes=(Code.NOT_READY, *ANY),
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=get_metrics,
        access=Scope.OPERATE,
        operation_id="getMetrics",
        tag="operating",
        summary="Metrics",
        description="The metrics of the service, in the text format of Prometheus.",
        success="The metrics.",
        content_type=METRICS_CONTENT_TYPE,
        codes=ANY,
    ),
    Route(method="GET", path="/", handler=get_home, access=Access.PUBLIC),
    Route(method="GET", path="/openapi.json", handler=get_document, access=Access.PUBLIC, aliases=("/docs-json",)),
)
SWAGGER_ROUTES: Final = (
    Route(method="GET", path="/docs", handler=get_page, access=Access.PUBLIC, aliases=("/api",)),
    Route(method="GET", path="/docs/assets/{name}", handler=get_asset, access=Access.PUBLIC),
)
"""Served where ENABLE_SWAGGER is true."""
