"""Writes the audit rows of POSTs that no ledger transaction carries: refused at the edge, or answered 5xx.

Bounds: at most BUFFER_ROWS_MAX rows wait; one more is counted as lost. A batch is BATCH_ROWS_MAX rows, one round
trip. While the database is away the rows wait, with growing pauses. A row that the database refuses is found by
writing its batch one by one, and counted as lost. At stop what waits is written within FLUSH_SECONDS_MAX; a
crash loses what waits, which no answer ever promised.

Ordering: where the outcome is unknown the ledger's transaction may still commit, with a row of the same id and
the true status. Such a row is held back until that can no longer happen; the row that came first stays.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog

from wallet.api.metrics import Metrics
from wallet.ledger.audit import AuditRow, insert_audit_rows
from wallet.pacing import Pace
from wallet.postgres.errors import Failure, failure_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wallet.postgres.connections import Pool

BUFFER_ROWS_MAX: Final = 1000
BATCH_ROWS_MAX: Final = 200
WRITE_SECONDS_MAX: Final = 10.0
FLUSH_SECONDS_MAX: Final = 3.0
PAUSE_SECONDS_MIN: Final = 0.1
PAUSE_SECONDS_MAX: Final = 5.0
HELD_SECONDS: Final = 60.0
"""How long a row of an unknown outcome is held back; no batch is tried for that long."""

_log = structlog.get_logger("wallet.api.audit")


class AuditBuffer:
    """Takes rows at once and writes them in the background; it never makes a request wait or fail."""

    def __init__(self, pool: "Pool", metrics: Metrics, *, held_seconds: float = HELD_SECONDS) -> None:
        self._pool = pool
        self._metrics = metrics
        self._held_seconds = held_seconds
        self._waiting: deque[AuditRow] = deque()
        self._held: deque[AuditRow] = deque()
        self._has_rows = asyncio.Event()

    def add(self, row: AuditRow) -> None:
        """Keep a row to be written soon; counted as lost where too many wait already."""
        if self._has_room():
            self._waiting.append(row)
            self._has_rows.set()

    def add_held_back(self, row: AuditRow) -> None:
        """Keep a row to be written when no transaction can carry one of the same id any more."""
        if self._has_room():
            self._held.append(row)
            asyncio.get_running_loop().call_later(self._held_seconds, self._release_oldest)

    async def run(self) -> None:
        """Write rows until cancelled."""
        pace = Pace(seconds_min=PAUSE_SECONDS_MIN, seconds_max=PAUSE_SECONDS_MAX)
        while True:
            await self._has_rows.wait()
            if await self._write_batch():
                pace.reset()
            else:
                await pace.wait()

    async def flush(self) -> None:
        """Write what still waits, within its limit; the rest is counted as lost."""
        self._waiting.extend(self._held)
        self._held.clear()
        try:
            async with asyncio.timeout(FLUSH_SECONDS_MAX):
                while self._waiting and await self._write_batch():
                    pass
        except TimeoutError:
            pass
        if self._waiting:
            self._lose(len(self._waiting), "the process stopped before they were written")
            self._waiting.clear()

    def _has_room(self) -> bool:
        has_room = len(self._waiting) + len(self._held) < BUFFER_ROWS_MAX
        if not has_room:
            self._metrics.count_audit_losses(1)
        return has_room

    def _release_oldest(self) -> None:
        if self._held:
            self._waiting.append(self._held.popleft())
            self._has_rows.set()

    async def _write_batch(self) -> bool:
        """Write the oldest rows; False where the database is out of reach and they still wait."""
        rows = [self._waiting[index] for index in range(min(BATCH_ROWS_MAX, len(self._waiting)))]
        failure = await self._write(rows)
        if failure is None:
            self._forget(len(rows))
            return True
        if failure is not Failure.CULPRIT:
            return False
        for row in rows:
            failure = await self._write([row])
            if failure not in (None, Failure.CULPRIT):
                return False
            if failure is Failure.CULPRIT:
                self._lose(1, "the database refuses it")
            self._forget(1)
        return True

    async def _write(self, rows: "Sequence[AuditRow]") -> Failure | None:
        try:
            async with asyncio.timeout(WRITE_SECONDS_MAX), self._pool.acquire() as connection:
                await insert_audit_rows(connection, rows, None)
        except Exception as error:  # noqa: BLE001 - a loop of the process: it logs, and goes on with the next row
            failure = failure_of(error)
            if failure is Failure.CULPRIT:
                _log.error("audit_rows_refused", count=len(rows), error=repr(error))
            return failure
        return None

    def _forget(self, count: int) -> None:
        # Rows leave only after their write, so that a cancelled write leaves them for the flush. One that was
        # written all the same is not written twice: its id is there already.
        for _ in range(count):
            self._waiting.popleft()
        if not self._waiting:
            self._has_rows.clear()

    def _lose(self, count: int, reason: str) -> None:
        self._metrics.count_audit_losses(count)
        _log.error("audit_rows_lost", count=count, reason=reason)


@asynccontextmanager
async def open_audit_buffer(pool: "Pool", metrics: Metrics) -> AsyncIterator[AuditBuffer]:
    """An audit buffer that writes in the background, and is flushed at the end."""
    buffer = AuditBuffer(pool, metrics)
    writer = asyncio.create_task(buffer.run(), name="audit buffer")
    try:
        yield buffer
    finally:
        writer.cancel()
        await asyncio.wait([writer])
        await buffer.flush()
