"""Assembles the packages into the processes api, relay and worker."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog

from wallet.access.keyring import Keyring, kept_current
from wallet.api.admin import admin_listener
from wallet.api.app import ROUTES, create_app
from wallet.api.contract import openapi
from wallet.api.contract.reply import RENDER
from wallet.api.edge.asgi import Edge
from wallet.api.edge.gate import Gate, Unprotected
from wallet.api.edge.incoming import BodyLimits
from wallet.api.edge.server import CannotListen, PortInUse, ServerEnded, serve
from wallet.api.routes.health import Health
from wallet.api.routes.static_files import SwaggerMissing
from wallet.api.services import Executes
from wallet.integrity.monitor.monitor import run_monitor
from wallet.ledger.ledger import LANE_COUNT, QUEUE_DEPTH, SHARED_LANE_COUNT, Ledger
from wallet.postgres.connections import open_pool
from wallet.postgres.session import Session
from wallet.rabbitmq.connection import InvalidBrokerAddress
from wallet.relay.relay import run_relay as lead_and_seal
from wallet.runtime.addresses import is_loopback
from wallet.runtime.metrics import Metrics
from wallet.runtime.settings import Settings
from wallet.trail.buffer import TrailBuffer, open_trail_buffer
from wallet.worker.process import run_worker as handle_events

__all__ = ["CANNOT_RUN", "ApiParts", "api_parts", "openapi_document", "run_api", "run_relay", "run_worker"]

CANNOT_RUN: Final = (CannotListen, InvalidBrokerAddress, PortInUse, ServerEnded, SwaggerMissing, Unprotected)
"""Errors that end a process with one line that states the cause, because waiting would not help."""

READ_POOL_MAX: Final = 8
"""Connections for the read routes. The lanes of the ledger have separate ones."""
BACKGROUND_POOL_MAX: Final = 2
"""Connections for the audit trail rows that are written in the background, and for unfinished transfers."""
HEALTH_POOL_MAX: Final = 1
"""One caller at a time checks readiness; its connection is free however many reads wait."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ApiParts:
    """What an api process has besides its server."""

    app: Edge
    gate: Gate
    metrics: Metrics
    trail_buffer: TrailBuffer


@asynccontextmanager
async def api_parts(
    settings: Settings,
    stop: asyncio.Event,
    *,
    host: str = "127.0.0.1",
    process_number: int | None = None,
    body_limits: BodyLimits | None = None,
    around_ledger: Callable[[Executes], Executes] = lambda ledger: ledger,
) -> AsyncIterator[ApiParts]:
    """Run everything that an api process has besides its server.

    `around_ledger` returns what the routes use instead of the ledger. At the end of the block, the ledger finishes the
    waiting commands. If the ledger ends earlier, by an error, no request can be answered, so `stop` is set.
    """
    async with AsyncExitStack() as stack:
        reads, background, health = [
            await stack.enter_async_context(open_pool(settings.dsn, application_name=name, size_max=size))
            for name, size in (
                ("wallet api reads", READ_POOL_MAX),
                ("wallet api background", BACKGROUND_POOL_MAX),
                ("wallet api health", HEALTH_POOL_MAX),
            )
        ]
        ledger = Ledger(
            settings.dsn,
            background,
            deadline_seconds=settings.request_deadline_seconds,
            is_stepwise=settings.transfer_mode == "stepwise",
            render=RENDER,
            lane_count=LANE_COUNT if process_number is None else SHARED_LANE_COUNT,
            clock_difference_max_seconds=settings.clock_difference_max_seconds,
        )
        gate = await _open_gate(settings, host, stop, stack)
        metrics = Metrics("api", process_number=process_number)
        readiness = Health(health)
        metrics.ask(QUEUE_DEPTH, lambda: ledger.waiting_count)
        trail_buffer = await stack.enter_async_context(open_trail_buffer(background, metrics))
        app = create_app(
            ledger=around_ledger(ledger),
            may_concern=ledger.may_concern,
            pool=reads,
            gate=gate,
            health=readiness,
            trail_buffer=trail_buffer,
            metrics=metrics,
            settings=settings,
            body_limits=body_limits,
        )
        if process_number in (None, 1):
            await stack.enter_async_context(admin_listener(settings, readiness, metrics))
        running = asyncio.create_task(ledger.run(), name="ledger")
        running.add_done_callback(lambda _task: stop.set())
        reporting = asyncio.create_task(metrics.keep_current(), name="metrics")
        try:
            yield ApiParts(app, gate, metrics, trail_buffer)
        finally:
            reporting.cancel()
            ledger.stop()
            await running


async def _open_gate(settings: Settings, host: str, stop: asyncio.Event, stack: AsyncExitStack) -> Gate:
    """Returns the gate of an api that listens on this address; its keys are kept current until the stack ends."""
    keyring = Keyring()
    session = await stack.enter_async_context(
        Session(settings.dsn, application_name="wallet api keys", needs_migrations=False)
    )
    await stack.enter_async_context(kept_current(keyring, session, stop))
    return Gate(keyring, mode=settings.auth, is_loopback=is_loopback(host))


async def run_api(
    settings: Settings, *, host: str, port: int, stop: asyncio.Event, process_number: int | None = None
) -> None:
    """Serve HTTP until `stop`: answer every request that was read, then let the ledger finish the waiting commands.

    With a `process_number` it is one of several processes that share the port. Raises one of CANNOT_RUN.
    """
    async with api_parts(settings, stop, host=host, process_number=process_number) as parts:
        if parts.gate.is_unprotected:
            raise Unprotected(
                f"There is no API key, so nobody could be served on {host}: create one with `wallet key create` (for "
                "`wallet up`: while it runs without --host), or set AUTH=off if a proxy in front checks every request."
            )
        await serve(
            parts.app,
            host=host,
            port=port,
            stop=stop,
            on_ready=_say_ready,
            shares_port=process_number is not None,
            trusted_proxies=settings.trusted_proxies,
        )


async def run_relay(settings: Settings, stop: asyncio.Event) -> None:
    """Seal and publish until `stop`. Raises one of CANNOT_RUN."""
    metrics = Metrics("relay")
    async with _observed(settings, metrics):
        await lead_and_seal(settings, metrics, stop)


async def run_worker(settings: Settings, stop: asyncio.Event) -> None:
    """Handle events, and check the books in the same process, until `stop`. Raises one of CANNOT_RUN."""
    metrics = Metrics("worker")
    async with _observed(settings, metrics):
        await _handle_and_check(settings, metrics, stop)


async def _handle_and_check(settings: Settings, metrics: Metrics, stop: asyncio.Event) -> None:
    auditing = asyncio.create_task(run_monitor(settings.dsn, stop), name="integrity monitor")
    try:
        await handle_events(settings, metrics, stop)
    finally:
        if not stop.is_set():
            auditing.cancel()
        await asyncio.wait({auditing})


@asynccontextmanager
async def _observed(settings: Settings, metrics: Metrics) -> AsyncIterator[None]:
    """Run the admin listener of a process other than the api while inside the block, if ADMIN_PORT is set."""
    if settings.admin_port is None:
        yield
        return
    async with (
        open_pool(settings.dsn, application_name="wallet health", size_max=HEALTH_POOL_MAX) as pool,
        admin_listener(settings, Health(pool), metrics),
    ):
        yield


def openapi_document() -> dict[str, Any]:
    """Returns the HTTP contract as an OpenAPI 3.1 document."""
    return openapi.document(ROUTES)


def _say_ready(url: str) -> None:
    _log.info("api_ready", url=url)
