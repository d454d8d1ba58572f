"""GET /audit: what the auditor has found, for people and for Prometheus.

One statement a second at most, however many ask; nothing is proved here.
"""

import asyncio
from typing import Final

import falcon.asgi
import msgspec

from wallet.api.contract.integrity_schemas import AuditResponse
from wallet.api.contract.problems import Code, Refused
from wallet.api.contract.schemas import JSON
from wallet.api.routes.integrity_report import report_of
from wallet.integrity.monitor.reading import read_audit
from wallet.postgres.connections import Pool
from wallet.queries.reading import ReadFailed

CACHED_SECONDS: Final = 1.0
READ_SECONDS_MAX: Final = 2.0
"""As readiness and metrics: who asks every few seconds has no use for a later answer."""


class Audits:
    """Answers with what was read within the last second."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._reading: asyncio.Task[AuditResponse] | None = None
        self._begun_at = float("-inf")
        self._ended_at = float("-inf")

    async def report(self) -> AuditResponse:
        """The report, made anew where it is too old. Who waits shares one read, its failure too. Raises ReadFailed."""
        loop = asyncio.get_running_loop()
        reading = self._reading
        if reading is None or (reading.done() and loop.time() - self._ended_at >= CACHED_SECONDS):
            self._begun_at = loop.time()
            reading = self._reading = asyncio.create_task(self._read())
            reading.add_done_callback(self._end)
        # Not cancelled when the time is over: asyncpg may take long to give up, and nobody need wait for that.
        await asyncio.wait({reading}, timeout=max(0.0, self._begun_at + READ_SECONDS_MAX - loop.time()))
        if not reading.done():
            raise ReadFailed
        return reading.result()

    async def _read(self) -> AuditResponse:
        return report_of(await read_audit(self._pool))

    def _end(self, reading: "asyncio.Task[AuditResponse]") -> None:
        self._ended_at = reading.get_loop().time()
        # Its failure is for those who wait, if anybody still does.
        if not reading.cancelled():
            reading.exception()


class AuditPage:
    """GET /audit"""

    def __init__(self, audits: Audits) -> None:
        self._audits = audits

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Whether the books are right, and who is behind; 200 also where they are not."""
        try:
            resp.data = _encode(await self._audits.report())
        except ReadFailed as error:
            raise Refused(Code.UNAVAILABLE, f"{error} What the auditor found can't be read; try again.") from None
        resp.content_type = JSON
        resp.set_header("Cache-Control", "no-store")

    on_head = on_get


_encode: Final = msgspec.json.Encoder().encode
