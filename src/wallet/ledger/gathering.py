"""The queue in front of the lanes: bounded, fair, and in order for every wallet.

Each wallet that is busy, or for which requests wait, has a *line*: the requests that wait for it, in order. A wallet is
in at most one batch in flight, so its commands keep their order and lanes never wait for each other. A single request
is *ready* when it is at the head of the lines of all its wallets and none of these wallets is busy. The oldest ready
request is taken first.

A waiting bulk request is in no line, so single requests overtake it. It is ready when none of its wallets has a line.
Two rules keep a steady stream of single requests and a steady stream of bulk requests from starving each other:

- *Reservation*: once the oldest bulk request has waited for BULK_PATIENCE_SECONDS (or a quarter of the time to its
  deadline, if that is less), it joins the lines of its wallets, and requests that arrive later no longer overtake it.
  There is one reservation at a time, and only while no bulk request runs, so that a single request waits for at most
  one bulk request.
- *Rest*: after a bulk batch for which single requests had to wait, their wallets are closed to bulk requests for
  BULK_REST_FACTOR times as long as the batch took. During that time there is no reservation.

The cost of each method is proportional to the number of wallets of the requests that it moves and, for each of these
wallets, to the number of bulk requests that wait for it. Taking a bulk batch also sorts the bulk requests that are
ready, of which there are few (see bulk_turns.py).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Final

from wallet.domain.identifiers import WalletId
from wallet.ledger.requests import Request

WAITING_MAX: Final = 4096
WAITING_PER_WALLET_MAX: Final = WAITING_MAX // 4
"""Below WAITING_MAX, so that the requests of one busy wallet can't fill the whole queue."""
BATCH_MAX: Final = 1024
"""The number of commands in a batch. A request is never split over two batches."""
BULK_PATIENCE_SECONDS: Final = 1.0
BULK_REST_FACTOR: Final = 2.0
"""Limits bulk batches to a third of the time of a wallet that single requests also use."""


def first_batch_of(requests: Iterable[Request]) -> list[Request]:
    """Returns the first requests with a waiting client that fit into one batch, or one that is too big, alone."""
    batch: list[Request] = []
    count = 0
    for request in requests:
        if not request.is_over:
            count += len(request.commands)
            if batch and count > BATCH_MAX:
                break
            batch.append(request)
    return batch


def _loop_seconds() -> float:
    return asyncio.get_running_loop().time()


class _Line:
    """The requests that wait for a wallet. It exists while the wallet is busy or resting, or a request waits for it."""

    __slots__ = ("is_busy", "is_resting", "queue")

    def __init__(self) -> None:
        self.is_busy = False
        self.is_resting = False
        self.queue: deque[Request] = deque()


class Gathering:
    """The queue of one process. No method awaits anything, so each one is atomic.

    `Request.blockers` is the number of lines that keep a request from being ready. For a request that is in lines, they
    are the lines in which it is not at the head, or whose wallet is busy. For a bulk request without a reservation,
    they are all lines of its wallets.
    """

    def __init__(self, clock_seconds: Callable[[], float] = _loop_seconds) -> None:
        self._clock_seconds = clock_seconds
        self._lines: dict[WalletId, _Line] = {}
        self._ready: list[tuple[int, Request]] = []
        self._place = 0
        self._single_count = 0
        self._bulk_due_seconds: dict[Request, float] = {}
        self._bulk_of_wallet: dict[WalletId, set[Request]] = {}
        self._ready_bulk: set[Request] = set()
        self._reserved: Request | None = None
        self._bulk_began_seconds: float | None = None
        self._resting_until_seconds: deque[tuple[float, list[WalletId]]] = deque()

    def __len__(self) -> int:
        return self._single_count + len(self._bulk_due_seconds)

    @property
    def rest_end_seconds(self) -> float | None:
        """The time when the last rest ends. Bulk requests that wait for it become ready then, without another event."""
        return self._resting_until_seconds[-1][0] if self._resting_until_seconds else None

    def has_ready(self, *, is_bulk: bool) -> bool:
        """Returns whether a lane of this kind would get a batch now. Ends rests and makes reservations that are due."""
        if not is_bulk:
            return bool(self._ready)
        if not self._bulk_due_seconds and not self._resting_until_seconds:
            return False
        self._end_rests()
        self._reserve_if_due()
        return bool(self._ready_bulk) if self._reserved is None else not self._reserved.blockers

    def refusal_for(self, request: Request) -> str | None:
        """Returns the reason why there is no room for this request now, or None."""
        if len(self) >= WAITING_MAX:
            return f"{WAITING_MAX} requests are waiting already"
        for wallet_id in request.wallet_ids:
            line = self._lines.get(wallet_id)
            if line is not None and len(line.queue) >= WAITING_PER_WALLET_MAX:
                return f"{WAITING_PER_WALLET_MAX} requests are waiting for this wallet already"
        return None

    def add(self, request: Request) -> None:
        """Add a request as the newest one."""
        self._place += 1
        request.place = self._place
        if request.is_bulk:
            self._add_bulk(request)
        else:
            self._single_count += 1
            self._enqueue(request)

    def take(self, *, is_bulk: bool) -> list[Request]:
        """Returns the next batch, oldest request first. It may be empty. Its wallets are busy until `release`."""
        return self._take_bulk() if is_bulk else self._take_singles()

    def release(self, batch: list[Request]) -> None:
        """Free the wallets of a batch that has ended; the requests at the heads of their lines may become ready."""
        if batch[0].is_bulk:
            self._rest_after(batch)
        for request in batch:
            for wallet_id in request.wallet_ids:
                line = self._lines.get(wallet_id)
                if line is not None and line.is_busy:
                    self._free(wallet_id, line)

    def cancel(self, request: Request) -> None:
        """Remove a bulk request whose client no longer waits, if it is in the queue."""
        if request in self._bulk_due_seconds:
            self._remove([request])

    def take_waiting(self, wallet_ids: set[WalletId]) -> list[Request]:
        """Remove and return, in order, all requests that wait for one of these wallets (they go to the side lane)."""
        found: set[Request] = set()
        for wallet_id in wallet_ids:
            line = self._lines.get(wallet_id)
            if line is not None:
                found.update(line.queue)
            found.update(self._bulk_of_wallet.get(wallet_id, ()))
        taken = sorted(found, key=lambda request: request.place)
        self._remove(taken)
        return taken

    def _enqueue(self, request: Request) -> None:
        blockers = 0
        lines = self._lines
        for wallet_id in request.wallet_ids:
            line = lines.get(wallet_id)
            if line is None:
                line = self._open(wallet_id)
            elif line.is_busy or line.queue:
                blockers += 1
            line.queue.append(request)
        request.blockers = blockers
        if not blockers and not request.is_bulk:
            heappush(self._ready, (request.place, request))

    def _take_singles(self) -> list[Request]:
        batch: list[Request] = []
        over: list[Request] = []
        ready, lines = self._ready, self._lines
        # Requests that become ready because all requests before them in their lines are in this batch.
        behind: list[tuple[int, Request]] = []
        moved: list[_Line] = []
        while len(batch) < BATCH_MAX and (ready or behind):
            place, request = heappop(behind if behind and (not ready or behind[0] < ready[0]) else ready)
            if request.place != place:
                continue  # It was removed while it was ready.
            self._single_count -= 1
            (over if request.is_over else batch).append(request)
            for wallet_id in request.wallet_ids:
                line = lines[wallet_id]
                line.is_busy = True
                line.queue.popleft()
                if line.queue:
                    moved.append(line)
                    head = line.queue[0]
                    head.blockers -= 1
                    if not head.blockers and not head.is_bulk:
                        heappush(behind, (head.place, head))
        # A request that did not fit stays first in its line, and waits until that wallet is free again.
        for line in {id(line): line for line in moved}.values():
            if line.queue:
                line.queue[0].blockers += 1
        if over:
            self._free_unless_in(batch, over)
        return batch

    def _free_unless_in(self, batch: list[Request], over: list[Request]) -> None:
        """Free the wallets of requests that are over, except wallets that are in the batch too."""
        taken = {wallet_id for request in batch for wallet_id in request.wallet_ids}
        for request in over:
            for wallet_id in request.wallet_ids:
                line = self._lines.get(wallet_id)
                if line is not None and line.is_busy and wallet_id not in taken:
                    self._free(wallet_id, line)

    def _free(self, wallet_id: WalletId, line: _Line) -> None:
        line.is_busy = False
        if line.queue:
            self._move_up(line.queue[0])
        elif not line.is_resting:
            self._close(wallet_id)

    def _move_up(self, head: Request) -> None:
        """Update a request that is now the first of one more line whose wallet is free."""
        head.blockers -= 1
        if not head.blockers and not head.is_bulk:
            heappush(self._ready, (head.place, head))

    def _open(self, wallet_id: WalletId) -> _Line:
        line = self._lines[wallet_id] = _Line()
        for bulk in self._bulk_of_wallet.get(wallet_id, ()):
            bulk.blockers += 1
            self._ready_bulk.discard(bulk)
        return line

    def _close(self, wallet_id: WalletId) -> None:
        del self._lines[wallet_id]
        for bulk in self._bulk_of_wallet.get(wallet_id, ()):
            bulk.blockers -= 1
            if not bulk.blockers:
                self._ready_bulk.add(bulk)

    def _add_bulk(self, request: Request) -> None:
        now = self._clock_seconds()
        self._bulk_due_seconds[request] = now + min(BULK_PATIENCE_SECONDS, (request.deadline - now) / 4)
        blockers = 0
        for wallet_id in request.wallet_ids:
            self._bulk_of_wallet.setdefault(wallet_id, set()).add(request)
            blockers += wallet_id in self._lines
        request.blockers = blockers
        if not blockers:
            self._ready_bulk.add(request)

    def _forget_bulk_of_wallets(self, request: Request) -> None:
        self._ready_bulk.discard(request)
        for wallet_id in request.wallet_ids:
            of_wallet = self._bulk_of_wallet[wallet_id]
            of_wallet.discard(request)
            if not of_wallet:
                del self._bulk_of_wallet[wallet_id]

    def _take_bulk(self) -> list[Request]:
        if not self.has_ready(is_bulk=True):
            return []
        reserved, self._reserved = self._reserved, None
        batch = [reserved] if reserved else first_batch_of(sorted(self._ready_bulk, key=lambda each: each.place))
        for request in batch:
            del self._bulk_due_seconds[request]
            if request is reserved:
                for wallet_id in request.wallet_ids:
                    self._lines[wallet_id].queue.popleft()
            else:
                self._forget_bulk_of_wallets(request)
        for request in batch:
            for wallet_id in request.wallet_ids:
                (self._lines.get(wallet_id) or self._open(wallet_id)).is_busy = True
        if batch:
            self._bulk_began_seconds = self._clock_seconds()
        return batch

    def _reserve_if_due(self) -> None:
        """Let the oldest bulk request join the lines of its wallets, if it has waited long enough."""
        if (
            self._reserved is not None
            or self._bulk_began_seconds is not None
            or self._resting_until_seconds
            or not self._bulk_due_seconds
        ):
            return
        oldest, due_seconds = next(iter(self._bulk_due_seconds.items()))
        if oldest.blockers and self._clock_seconds() >= due_seconds:
            self._forget_bulk_of_wallets(oldest)
            self._reserved = oldest
            self._enqueue(oldest)

    def _rest_after(self, batch: list[Request]) -> None:
        """Close wallets to bulk requests for a while, if single requests on them waited for this bulk batch."""
        now = self._clock_seconds()
        assert self._bulk_began_seconds is not None
        seconds = BULK_REST_FACTOR * (now - self._bulk_began_seconds)
        self._bulk_began_seconds = None
        waited_for: list[WalletId] = []
        for request in batch:
            for wallet_id in request.wallet_ids:
                line = self._lines[wallet_id]
                if line.queue and not line.is_resting:
                    line.is_resting = True
                    waited_for.append(wallet_id)
        if waited_for:
            # Never earlier than the end of the rests before it, so that rests end in the order in which they begin.
            self._resting_until_seconds.append((max(now + seconds, self.rest_end_seconds or 0.0), waited_for))

    def _end_rests(self) -> None:
        while self._resting_until_seconds and self._resting_until_seconds[0][0] <= self._clock_seconds():
            for wallet_id in self._resting_until_seconds.popleft()[1]:
                line = self._lines[wallet_id]
                line.is_resting = False
                if not line.is_busy and not line.queue:
                    self._close(wallet_id)

    def _remove(self, requests: list[Request]) -> None:
        """Remove requests from the queue; the requests behind them in their lines move up."""
        gone = set(requests)
        queued = [request for request in requests if not request.is_bulk or request is self._reserved]
        for wallet_id in {wallet_id for request in queued for wallet_id in request.wallet_ids}:
            line = self._lines[wallet_id]
            head = line.queue[0]
            line.queue = deque(request for request in line.queue if request not in gone)
            if line.is_busy or (line.queue and line.queue[0] is head):
                continue
            if line.queue:
                self._move_up(line.queue[0])
            elif not line.is_resting:
                self._close(wallet_id)
        for request in requests:
            request.place = 0
            if not request.is_bulk:
                self._single_count -= 1
                continue
            del self._bulk_due_seconds[request]
            if request is self._reserved:
                self._reserved = None
            else:
                self._forget_bulk_of_wallets(request)
