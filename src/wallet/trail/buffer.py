"""Writes audit trail rows of POSTs that no ledger transaction writes: those refused at the edge or answered 5xx.

Bounds: at most BUFFER_ROWS_MAX rows wait; further rows are counted as lost. A batch has at most BATCH_ROWS_MAX rows and
takes one round trip. While the database is unavailable the rows wait, with growing pauses between attempts. If the
database refuses a batch, its rows are written one by one, and a refused row is counted as lost. At a stop, the waiting
rows are written within FLUSH_SECONDS_MAX. A crash loses the waiting rows; no answer promises that they are stored.

Rows of refused POSTs have their own budget, because anyone can send such requests at any rate. See RefusedRows.

Ordering: if the outcome is unknown, the ledger's transaction may still commit a row with the same id and the true
status. So the row of this buffer is deferred until that can no longer happen. The row that is stored first stays.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from wallet.postgres.connections import Pool
from wallet.postgres.errors import Failure, failure_of
from wallet.runtime.addresses import client_of
from wallet.runtime.loop import Backoff
from wallet.runtime.metrics import Counter, Metrics
from wallet.trail.records import TrailRow, insert_trail_rows

BUFFER_ROWS_MAX: Final = 1000
REFUSED_ROWS_MAX: Final = 1000
REFUSED_BURST_MAX: Final = 2000
"""How many rows of refused requests of one client may be stored at once."""
REFUSED_A_SECOND_MAX: Final = 50.0
"""The long-run rate of stored rows of refused requests, for one client: at most 0.2 MB of the table per second."""
CLIENTS_REMEMBERED_MAX: Final = 1000
BATCH_ROWS_MAX: Final = 200
WRITE_SECONDS_MAX: Final = 10.0
FLUSH_SECONDS_MAX: Final = 3.0
PAUSE_SECONDS_MIN: Final = 0.1
PAUSE_SECONDS_MAX: Final = 5.0
DEFERRED_SECONDS: Final = 60.0
"""How long the row of an unknown outcome is deferred. It is longer than any batch is retried."""
LOST_ROWS: Final = Counter(
    "wallet_trail_rows_lost",
    "Rows of the audit trail that could not be written, of POSTs that moved nothing.",
    process="api",
)

_log = structlog.get_logger("wallet.api.edge.trail_records")


@dataclass(slots=True)
class _Allowance:
    """How many more rows of a client may be stored. The number grows with time."""

    rows: float
    at_seconds: float

    def use_one(self, now_seconds: float) -> bool:
        """Use one row of the allowance. Returns whether there was one."""
        grown = (now_seconds - self.at_seconds) * REFUSED_A_SECOND_MAX
        self.rows = min(REFUSED_BURST_MAX, self.rows + grown)
        self.at_seconds = now_seconds
        if self.rows < 1:
            return False
        self.rows -= 1
        return True


class RefusedRows:
    """Rows of refused requests that wait to be written. No client can take the places of another.

    Each client has an allowance of rows that grows with time. When more than REFUSED_ROWS_MAX rows wait, the client
    with the most rows loses its newest one. Rows are taken from the clients in turn.
    """

    def __init__(self) -> None:
        self._by_client: OrderedDict[str, deque[TrailRow]] = OrderedDict()
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, row: TrailRow, now_seconds: float) -> int:
        """Add a row if the allowance of its client permits it. Returns how many rows were lost: 0 or 1."""
        client = client_of(row.record.client_ip)
        if not self._allowance_of(client, now_seconds).use_one(now_seconds):
            return 1
        self._by_client.setdefault(client, deque()).append(row)
        self._count += 1
        if self._count <= REFUSED_ROWS_MAX:
            return 0
        largest = max(self._by_client, key=lambda each: len(self._by_client[each]))
        self._by_client[largest].pop()
        self._forget_one(largest)
        return 1

    def take(self, count_max: int) -> list[TrailRow]:
        """Remove and return rows, one of each client in turn."""
        taken: list[TrailRow] = []
        while self._by_client and len(taken) < count_max:
            client = next(iter(self._by_client))
            taken.append(self._by_client[client].popleft())
            self._by_client.move_to_end(client)
            self._forget_one(client)
        return taken

    def _forget_one(self, client: str) -> None:
        self._count -= 1
        if not self._by_client[client]:
            del self._by_client[client]

    def _allowance_of(self, client: str, now_seconds: float) -> _Allowance:
        allowance = self._allowances.get(client)
        if allowance is None:
            allowance = self._allowances[client] = _Allowance(REFUSED_BURST_MAX, now_seconds)
            if len(self._allowances) > CLIENTS_REMEMBERED_MAX:
                self._allowances.popitem(last=False)
        self._allowances.move_to_end(client)
        return allowance


class TrailBuffer:
    """Accepts rows without waiting and writes them in the background. It never makes a request wait or fail."""

    def __init__(self, pool: Pool, metrics: Metrics, *, deferred_seconds: float = DEFERRED_SECONDS) -> None:
        self._pool = pool
        self._metrics = metrics
        self._deferred_seconds = deferred_seconds
        self._waiting: deque[TrailRow] = deque()
        self._refused = RefusedRows()
        self._deferred: deque[TrailRow] = deque()
        self._in_hand: deque[TrailRow] = deque()
        self._has_rows = asyncio.Event()

    def add(self, row: TrailRow) -> None:
        """Add a row that is written soon. The row is counted as lost if too many already wait."""
        if self._has_room():
            self._waiting.append(row)
            self._has_rows.set()

    def add_refused(self, row: TrailRow) -> None:
        """Add a row of a refused request, which is written soon if the budget of such rows permits it."""
        lost = self._refused.add(row, asyncio.get_running_loop().time())
        if lost:
            self._metrics.add(LOST_ROWS, lost)
        self._has_rows.set()

    def add_deferred(self, row: TrailRow) -> None:
        """Add a row that is written only when no ledger transaction can still write a row with the same id."""
        if self._has_room():
            self._deferred.append(row)
            asyncio.get_running_loop().call_later(self._deferred_seconds, self._release_oldest)

    async def run(self) -> None:
        """Write rows until cancelled."""
        backoff = Backoff(seconds_min=PAUSE_SECONDS_MIN, seconds_max=PAUSE_SECONDS_MAX)
        while True:
            await self._has_rows.wait()
            if await self._write_batch():
                backoff.reset()
            else:
                await backoff.wait()

    async def flush(self) -> None:
        """Write the waiting rows within FLUSH_SECONDS_MAX. The remaining ones are counted as lost."""
        self._waiting.extend(self._deferred)
        self._deferred.clear()
        try:
            async with asyncio.timeout(FLUSH_SECONDS_MAX):
                while self._row_count and await self._write_batch():
                    pass
        except TimeoutError:
            pass
        if self._row_count:
            self._lose(self._row_count, "the process stopped before they were written")
            self._waiting.clear()
            self._in_hand.clear()
            self._refused = RefusedRows()

    @property
    def _row_count(self) -> int:
        return len(self._in_hand) + len(self._waiting) + len(self._refused)

    def _has_room(self) -> bool:
        has_room = len(self._waiting) + len(self._deferred) < BUFFER_ROWS_MAX
        if not has_room:
            self._metrics.add(LOST_ROWS, 1)
        return has_room

    def _release_oldest(self) -> None:
        if self._deferred:
            self._waiting.append(self._deferred.popleft())
            self._has_rows.set()

    async def _write_batch(self) -> bool:
        """Write the oldest rows. Returns False if the database is unavailable, so that rows still wait."""
        self._take_in_hand()
        rows = list(self._in_hand)
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

    def _take_in_hand(self) -> None:
        """Fill the current batch: half from each kind of rows, or more from one kind if the other has fewer."""
        room = BATCH_ROWS_MAX - len(self._in_hand)
        from_waiting = min(len(self._waiting), max(room // 2, room - len(self._refused)))
        self._in_hand.extend(self._waiting.popleft() for _ in range(from_waiting))
        self._in_hand.extend(self._refused.take(room - from_waiting))

    async def _write(self, rows: Sequence[TrailRow]) -> Failure | None:
        try:
            async with asyncio.timeout(WRITE_SECONDS_MAX), self._pool.acquire() as connection:
                await insert_trail_rows(connection, rows, None)
        except Exception as error:  # noqa: BLE001 - a loop of the process: it logs, and continues with the next row
            failure = failure_of(error)
            if failure is Failure.CULPRIT:
                _log.error("trail_rows_refused", count=len(rows), error=repr(error))
            return failure
        return None

    def _forget(self, count: int) -> None:
        # Rows are removed only after their write, so that after a cancelled write the flush still has them. If a
        # cancelled write did store a row, the second write skips it, because its id already exists.
        for _ in range(count):
            self._in_hand.popleft()
        if not self._row_count:
            self._has_rows.clear()

    def _lose(self, count: int, reason: str) -> None:
        self._metrics.add(LOST_ROWS, count)
        _log.error("trail_rows_lost", count=count, reason=reason)


@asynccontextmanager
async def open_trail_buffer(pool: Pool, metrics: Metrics) -> AsyncIterator[TrailBuffer]:
    """Open a trail buffer that writes in the background and is flushed at the end."""
    buffer = TrailBuffer(pool, metrics)
    writer = asyncio.create_task(buffer.run(), name="audit buffer")
    try:
        yield buffer
    finally:
        writer.cancel()
        await asyncio.wait([writer])
        await buffer.flush()
