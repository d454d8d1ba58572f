"""The application: the table of all routes, the services that they use, and the edge around them."""

from typing import Final

from wallet.api.contract.route import Route
from wallet.api.edge.asgi import Edge
from wallet.api.edge.gate import Gate
from wallet.api.edge.incoming import BodyLimits
from wallet.api.edge.router import Router
from wallet.api.integrity_metrics import IntegrityCollector
from wallet.api.routes import bulk, integrity, movements, pages, reads
from wallet.api.routes.health import Health
from wallet.api.routes.integrity_report import IntegrityReports
from wallet.api.services import DecodingTurns, Executes, MayConcern, Services
from wallet.postgres.connections import Pool
from wallet.runtime.metrics import Metrics
from wallet.runtime.settings import Settings
from wallet.trail.buffer import TrailBuffer

ROUTES: Final[tuple[Route, ...]] = (
    *movements.ROUTES,
    *bulk.ROUTES,
    *reads.ROUTES,
    *integrity.ROUTES,
    *pages.ROUTES,
)
"""Every route that is always served, in the order of the OpenAPI document."""


def create_app(
    *,
    ledger: Executes,
    may_concern: MayConcern,
    pool: Pool,
    gate: Gate,
    health: Health,
    trail_buffer: TrailBuffer,
    metrics: Metrics,
    settings: Settings,
    body_limits: BodyLimits | None = None,
) -> Edge:
    """Join the routes to their services: `pool` serves reads, `health` readiness. Raises SwaggerMissing."""
    reports = IntegrityReports(pool)
    collector = IntegrityCollector(reports.report)
    metrics.register(collector, collector.refresh)
    services = Services(
        ledger=ledger,
        may_concern=may_concern,
        decoding_turns=DecodingTurns(settings.request_deadline_seconds),
        is_stepwise=settings.transfer_mode == "stepwise",
        reads=pool,
        health=health,
        integrity=reports,
        metrics=metrics,
        files=pages.static_files(ROUTES, has_swagger=settings.enable_swagger),
    )
    return Edge(
        Router([*ROUTES, *(pages.SWAGGER_ROUTES if settings.enable_swagger else ())]),
        services,
        gate=gate,
        metrics=metrics,
        trail_buffer=trail_buffer,
        trusted_proxies=settings.trusted_proxies,
        limits=body_limits or BodyLimits(),
        logs_requests=settings.logs_each_request,
    )
