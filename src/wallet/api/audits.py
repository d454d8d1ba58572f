"""GET /audit: what the auditor has found, for people and for Prometheus.

One statement a second at most, however many ask; nothing is proved here.
"""

import asyncio
from typing import TYPE_CHECKING, Final

import falcon.asgi
import msgspec

from wallet.api.audit_report import report_of
from wallet.api.audit_schemas import AuditResponse
from wallet.api.problems import Code, Refused
from wallet.api.schemas import JSON
from wallet.auditor.reading import read_audit
from wallet.queries.reading import ReadFailed

if TYPE_CHECKING:
    from wallet.postgres.connections import Pool

CACHED_SECONDS: Final = 1.0


class Audits:
    """Answers with what was read within the last second."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._reading = asyncio.Lock()
        self._report: AuditResponse | None = None
        self._read_at = float("-inf")

    async def report(self) -> AuditResponse:
        """The report, made anew where it is too old. Raises ReadFailed."""
        loop = asyncio.get_running_loop()
        async with self._reading:
            if self._report is None or loop.time() - self._read_at >= CACHED_SECONDS:
                self._report = None
                self._report = report_of(await read_audit(self._pool))
                self._read_at = loop.time()
            return self._report


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
