"""The application: which route is served by what, and the edge around all of them."""

from typing import Any, Final

import falcon
import falcon.asgi

from wallet.api.contract.openapi import document
from wallet.api.contract.problems import Code, Refused, code_of_framework_status
from wallet.api.contract.query import read_parameters
from wallet.api.edge.asgi import Edge, MayConcern
from wallet.api.edge.exchange import exchange_of
from wallet.api.edge.incoming import BULK_PATH, BodyLimits
from wallet.api.integrity_metrics import IntegrityCollector
from wallet.api.routes.bulk import Operations
from wallet.api.routes.health import Health
from wallet.api.routes.integrity import IntegrityPage, IntegrityReports
from wallet.api.routes.movements import Deposits, Executes, Transfers, Withdrawals
from wallet.api.routes.pages import Alive, Document, Home, MetricsPage, Ready, SwaggerAssets, SwaggerPage
from wallet.api.routes.reads import Histories, Stats, Wallets
from wallet.api.routes.swagger import load_assets
from wallet.postgres.connections import Pool
from wallet.runtime.metrics import Metrics
from wallet.runtime.settings import Settings
from wallet.trail.buffer import TrailBuffer

METHODS: Final = tuple(method for method in falcon.COMBINED_METHODS if method != "OPTIONS")


def create_app(
    *,
    ledger: Executes,
    may_concern: MayConcern,
    pool: Pool,
    health: Health,
    trail_buffer: TrailBuffer,
    metrics: Metrics,
    settings: Settings,
    body_limits: BodyLimits | None = None,
) -> Edge:
    """Join the routes to what serves them. The pools serve the read routes and readiness. Raises SwaggerMissing."""
    app: falcon.asgi.App[Any, Any] = falcon.asgi.App(middleware=[_RouteChecks()])
    # As in the reference system. Only one slash: an empty segment is no part of any route.
    app.req_options.strip_url_path_trailing_slash = True
    for kind in (falcon.HTTPError, falcon.HTTPStatus, Exception):
        app.add_error_handler(kind, _leave_to_the_edge)

    app.add_route("/wallet/{wallet_id}/deposit", Deposits(ledger))
    app.add_route("/wallet/{wallet_id}/withdraw", Withdrawals(ledger))
    app.add_route("/wallet/{wallet_id}/transfer", Transfers(ledger))
    operations = Operations(
        ledger,
        may_concern=may_concern,
        deadline_seconds=settings.request_deadline_seconds,
        is_stepwise=settings.transfer_mode == "stepwise",
    )
    app.add_route(BULK_PATH, operations)
    app.add_route("/wallet/{wallet_id}", Wallets(pool))
    app.add_route("/wallet/{wallet_id}/history", Histories(pool))
    app.add_route("/wallet/{wallet_id}/stats", Stats(pool))
    app.add_route("/healthz", Alive())
    app.add_route("/readyz", Ready(health))
    audits = IntegrityReports(pool)
    app.add_route("/integrity", IntegrityPage(audits))
    integrity = IntegrityCollector(audits.report)
    metrics.register(integrity, integrity.refresh)
    app.add_route("/metrics", MetricsPage(metrics))
    contract = Document(document())
    app.add_route("/openapi.json", contract)
    app.add_route("/docs-json", contract)
    app.add_route("/", Home(has_pages=settings.enable_swagger))
    if settings.enable_swagger:
        assets = load_assets()
        app.add_route("/docs", SwaggerPage(assets))
        app.add_route("/api", SwaggerPage(assets))
        app.add_route("/docs/assets/{name}", SwaggerAssets(assets))

    return Edge(
        app,
        metrics=metrics,
        trail_buffer=trail_buffer,
        trusted_proxies=settings.trusted_proxies,
        limits=body_limits or BodyLimits(),
        may_concern=may_concern,
        logs_requests=settings.logs_each_request,
    )


class _RouteChecks:
    """Checks what can be checked for every route before its handler runs: the method and the query's parameters.

    It also notes the route of a request for its log line and metrics, and answers OPTIONS. There are no CORS headers,
    so a browser that asks for permission to send a request from another site gets none.
    """

    def __init__(self) -> None:
        self._methods: dict[type, tuple[str, ...]] = {}

    async def process_resource(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: object, params: dict[str, Any]
    ) -> None:
        exchange = exchange_of(req.scope)
        exchange.route = req.uri_template or ""
        methods = self._methods.get(type(resource)) or self._methods_of(type(resource))
        if req.method not in methods:
            allowed = ", ".join(methods)
            raise Refused(Code.METHOD_NOT_ALLOWED, f"This route takes {allowed}.", headers={"Allow": allowed})
        if exchange.query:
            exchange.parameters = read_parameters(exchange.query, getattr(resource, "parameters", ()))
        if req.method == "OPTIONS":
            resp.status = falcon.HTTP_204
            resp.set_header("Allow", ", ".join(methods))
            resp.complete = True

    def _methods_of(self, resource: type) -> tuple[str, ...]:
        taken = (method for method in METHODS if hasattr(resource, f"on_{method.lower()}"))
        methods = self._methods[resource] = (*taken, "OPTIONS")
        return methods


async def _leave_to_the_edge(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]
) -> None:
    """The edge answers all errors in one place; the framework's own are put into our words first."""
    if not isinstance(error, falcon.HTTPError):
        raise error
    raise _refusal_of(error, req) from None


def _refusal_of(error: falcon.HTTPError, req: falcon.asgi.Request) -> Refused:
    headers = dict(error.headers or {})
    detail = error.description or error.title or "The request cannot be served."
    if error.status_code == 404:
        detail = "There is no such route; /openapi.json lists them."
    return Refused(code_of_framework_status(error.status_code), detail, headers=headers)
