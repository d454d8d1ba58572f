"""GET /integrity: what the integrity monitor has found.

At most one statement a second is sent, however many requests arrive. Nothing is checked here.
"""

import asyncio
from typing import Final

import falcon.asgi
import msgspec

from wallet.api.contract.integrity_schemas import IntegrityResponse
from wallet.api.contract.problems import Code, Refused
from wallet.api.contract.schemas import JSON
from wallet.api.routes.integrity_report import report_of
from wallet.integrity.monitor.reading import read_integrity
from wallet.postgres.connections import Pool
from wallet.queries.reading import ReadFailed

CACHED_SECONDS: Final = 1.0
READ_SECONDS_MAX: Final = 2.0
"""As for readiness and metrics: a client that asks every few seconds has no use for a later answer."""


class IntegrityReports:
    """The report, at most a second old."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._reading: asyncio.Task[IntegrityResponse] | None = None
        self._begun_at = float("-inf")
        self._ended_at = float("-inf")

    async def report(self) -> IntegrityResponse:
        """Returns the report. Callers that wait at the same time share one read, and its failure. Raises ReadFailed."""
        loop = asyncio.get_running_loop()
        reading = self._reading
        if reading is None or (reading.done() and loop.time() - self._ended_at >= CACHED_SECONDS):
            self._begun_at = loop.time()
            reading = self._reading = asyncio.create_task(self._read())
            reading.add_done_callback(self._end)
        # Not cancelled at the time limit: asyncpg may take long to cancel, and no caller has to wait for that.
        await asyncio.wait({reading}, timeout=max(0.0, self._begun_at + READ_SECONDS_MAX - loop.time()))
        if not reading.done():
            raise ReadFailed
        return reading.result()

    async def _read(self) -> IntegrityResponse:
        return report_of(await read_integrity(self._pool))

    def _end(self, reading: "asyncio.Task[IntegrityResponse]") -> None:
        self._ended_at = reading.get_loop().time()
        # Retrieved, so that a failure that no caller waits for is not logged as an error of ours.
        if not reading.cancelled():
            reading.exception()


class IntegrityPage:
    """GET /integrity"""

    def __init__(self, audits: IntegrityReports) -> None:
        self._audits = audits

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Whether the books are right, and what is behind. 200 also if they are not."""
        try:
            resp.data = _encode(await self._audits.report())
        except ReadFailed as error:
            raise Refused(Code.UNAVAILABLE, f"{error} The report can't be read; try again.") from None
        resp.content_type = JSON
        resp.set_header("Cache-Control", "no-store")

    on_head = on_get


_encode: Final = msgspec.json.Encoder().encode
