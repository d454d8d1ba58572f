"""The API served in the test's own event loop, on a real database, with limits that a test can wait for."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.support.raw_http import RawAnswer, ask
from wallet.api.app import create_app
from wallet.api.contract.reply import RENDER
from wallet.api.edge.incoming import BodyLimits
from wallet.api.edge.server import ServerLimits, serve
from wallet.api.routes.health import Health
from wallet.api.services import Executes
from wallet.ledger.ledger import Ledger
from wallet.postgres.connections import open_pool
from wallet.runtime.metrics import Metrics
from wallet.runtime.settings import Settings
from wallet.trail.buffer import TrailBuffer, open_trail_buffer

HOST = "127.0.0.1"
BODY_LIMITS = BodyLimits(body_seconds_max=1.0)
SERVER_LIMITS = ServerLimits(head_seconds_max=1.0, stop_seconds_max=5.0)


@dataclass(frozen=True, slots=True)
class RunningApi:
    """A running API server."""

    url: str
    metrics: Metrics
    trail_buffer: TrailBuffer
    stop: asyncio.Event
    served: asyncio.Task[None]

    @property
    def port(self) -> int:
        """Returns the port on which it listens."""
        return int(self.url.rpartition(":")[2])

    async def send(self, request: bytes) -> RawAnswer:
        """Send bytes on a connection of their own, and read the answer."""
        return await ask(self.port, request)

    async def get(self, target: str, *headers: str) -> RawAnswer:
        """GET a path."""
        return await self.send(head("GET", target, *headers))

    async def post(self, target: str, body: bytes | str, *headers: str) -> RawAnswer:
        """POST a JSON body."""
        return await self.send(post(target, body, *headers))


def head(method: str, target: str, *headers: str) -> bytes:
    """The head of a request."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {HOST}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def post(target: str, body: bytes | str, *headers: str) -> bytes:
    """A POST of JSON."""
    raw = body.encode() if isinstance(body, str) else body
    return head("POST", target, "Content-Type: application/json", f"Content-Length: {len(raw)}", *headers) + raw


@asynccontextmanager
async def running_api(
    database_url: str,
    *,
    body_limits: BodyLimits = BODY_LIMITS,
    server_limits: ServerLimits = SERVER_LIMITS,
    around_ledger: Callable[[Executes], Executes] = lambda ledger: ledger,
    **settings: object,
) -> AsyncIterator[RunningApi]:
    """Everything that one api process has, connected as in bootstrap."""
    configured = Settings.model_validate({"database_url": database_url, **settings})
    async with open_pool(configured.dsn, application_name="test api", size_max=4) as pool:
        ledger = Ledger(
            configured.dsn,
            pool,
            deadline_seconds=configured.request_deadline_seconds,
            is_stepwise=configured.transfer_mode == "stepwise",
            render=RENDER,
            clock_difference_max_seconds=configured.clock_difference_max_seconds,
        )
        metrics = Metrics("api")
        async with open_trail_buffer(pool, metrics) as trail_buffer:
            app = create_app(
                ledger=around_ledger(ledger),
                may_concern=ledger.may_concern,
                pool=pool,
                health=Health(pool),
                trail_buffer=trail_buffer,
                metrics=metrics,
                settings=configured,
                body_limits=body_limits,
            )
            running = asyncio.create_task(ledger.run())
            stop, is_ready = asyncio.Event(), asyncio.get_running_loop().create_future()
            serving = asyncio.create_task(
                serve(
                    app,
                    host=HOST,
                    port=0,
                    stop=stop,
                    on_ready=is_ready.set_result,
                    limits=server_limits,
                    trusted_proxies=configured.trusted_proxies,
                )
            )
            try:
                yield RunningApi(await is_ready, metrics, trail_buffer, stop, serving)
            finally:
                stop.set()
                await serving
                ledger.stop()
                await running
