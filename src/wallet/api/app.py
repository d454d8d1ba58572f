"""The application: which route is served by what, and the edge around all of them."""

from typing import TYPE_CHECKING, Any, Final

import falcon
import falcon.asgi

from wallet.api.audit_buffer import AuditBuffer
from wallet.api.audits import AuditPage, Audits
from wallet.api.bulk import Operations
from wallet.api.edge import Edge
from wallet.api.exchange import exchange_of
from wallet.api.health import Health
from wallet.api.incoming import BULK_PATH, BodyLimits
from wallet.api.metrics import Metrics
from wallet.api.movements import Deposits, Executes, Transfers, Withdrawals
from wallet.api.openapi import document
from wallet.api.pages import Alive, Document, MetricsPage, Ready, SwaggerAssets, SwaggerPage
from wallet.api.problems import Refused, code_of_framework_status
from wallet.api.reads import Histories, Stats, Wallets
from wallet.api.swagger import load_assets
from wallet.settings import Settings

if TYPE_CHECKING:
    from wallet.postgres.connections import Pool

METHODS: Final = ("GET", "HEAD", "POST")


def create_app(
    *,
    ledger: Executes,
    pool: "Pool",
    health_pool: "Pool",
    audit_buffer: AuditBuffer,
    metrics: Metrics,
    settings: Settings,
    body_limits: BodyLimits | None = None,
) -> Edge:
    """Join the routes to what serves them. The pools serve the read routes and readiness. Raises SwaggerMissing."""
    app: falcon.asgi.App[Any, Any] = falcon.asgi.App(middleware=[_RouteNotes()])
    for kind in (falcon.HTTPError, falcon.HTTPStatus, Exception):
        app.add_error_handler(kind, _leave_to_the_edge)

    app.add_route("/wallet/{wallet_id}/deposit", Deposits(ledger))
    app.add_route("/wallet/{wallet_id}/withdraw", Withdrawals(ledger))
    app.add_route("/wallet/{wallet_id}/transfer", Transfers(ledger))
    app.add_route(BULK_PATH, Operations(ledger, is_stepwise=settings.transfer_mode == "stepwise"))
    app.add_route("/wallet/{wallet_id}", Wallets(pool))
    app.add_route("/wallet/{wallet_id}/history", Histories(pool))
    app.add_route("/wallet/{wallet_id}/stats", Stats(pool))
    app.add_route("/healthz", Alive())
    app.add_route("/readyz", Ready(Health(health_pool)))
    audits = Audits(pool)
    app.add_route("/audit", AuditPage(audits))
    app.add_route("/metrics", MetricsPage(metrics, audits))
    app.add_route("/openapi.json", Document(document()))
    if settings.enable_swagger:
        assets = load_assets()
        app.add_route("/docs", SwaggerPage(assets))
        app.add_route("/api", SwaggerPage(assets))
        app.add_route("/docs/assets/{name}", SwaggerAssets(assets))

    return Edge(
        app,
        metrics=metrics,
        audit_buffer=audit_buffer,
        trusted_proxies=settings.trusted_proxies,
        limits=body_limits or BodyLimits(),
        logs_requests=settings.log_requests,
    )


class _RouteNotes:
    """Notes the route of a request for its log line and metrics, and refuses methods nobody has heard of."""

    async def process_resource(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: object, params: dict[str, Any]
    ) -> None:
        exchange_of(req.scope).route = req.uri_template or ""
        if req.method not in falcon.COMBINED_METHODS:
            taken = [method for method in METHODS if hasattr(resource, f"on_{method.lower()}")]
            raise falcon.HTTPMethodNotAllowed([*taken, "OPTIONS"])


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
    elif error.status_code == 405:
        detail = f"This route takes {headers.get('Allow', 'other methods')}."
    return Refused(code_of_framework_status(error.status_code), detail, headers=headers)
