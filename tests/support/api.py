"""The API served in the test's event loop, on a real database, with short limits that a test can wait for."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.support.raw_http import RawAnswer, ask
from wallet.api.edge.incoming import BodyLimits
from wallet.api.edge.server import ServerLimits, serve
from wallet.api.services import Executes
from wallet.bootstrap import api_parts
from wallet.runtime.metrics import Metrics
from wallet.runtime.settings import Settings
from wallet.trail.buffer import TrailBuffer

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
        """Send bytes on a new connection. Returns the answer."""
        return await ask(self.port, request)

    async def get(self, target: str, *headers: str) -> RawAnswer:
        """Send a GET. Returns the answer."""
        return await self.send(head("GET", target, *headers))

    async def post(self, target: str, body: bytes | str, *headers: str) -> RawAnswer:
        """Send a POST with a JSON body. Returns the answer."""
        return await self.send(post(target, body, *headers))


def head(method: str, target: str, *headers: str) -> bytes:
    """Returns the head of a request."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {HOST}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def post(target: str, body: bytes | str, *headers: str) -> bytes:
    """Returns a POST with a JSON body."""
    raw = body.encode() if isinstance(body, str) else body
    return head("POST", target, "Content-Type: application/json", f"Content-Length: {len(raw)}", *headers) + raw


@asynccontextmanager
async def running_api(
    database_url: str,
    *,
    body_limits: BodyLimits = BODY_LIMITS,
    server_limits: ServerLimits = SERVER_LIMITS,
    around_ledger: Callable[[Executes], Executes] = lambda ledger: ledger,
    listens_on: str = HOST,
    **settings: object,
) -> AsyncIterator[RunningApi]:
    """Yields a running api: the parts of an api process, joined by bootstrap, and its server on a free port.

    `listens_on` is the address on which the gate believes that it listens.
    """
    configured = Settings.model_validate({"database_url": database_url, **settings})
    stop, is_ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    async with api_parts(
        configured, stop, host=listens_on, body_limits=body_limits, around_ledger=around_ledger
    ) as parts:
        serving = asyncio.create_task(
            serve(
                parts.app,
                host=HOST,
                port=0,
                stop=stop,
                on_ready=is_ready.set_result,
                limits=server_limits,
                trusted_proxies=configured.trusted_proxies,
            )
        )
        try:
            yield RunningApi(await is_ready, parts.metrics, parts.trail_buffer, stop, serving)
        finally:
            stop.set()
            await serving
