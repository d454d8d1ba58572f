"""Where requests wait for a lane: bounded, fair, and in order for every wallet.

A wallet is in at most one batch in flight, so its commands keep their order and lanes never wait for each
other. A request whose wallets are all free is *ready*; one that shares a wallet with a batch in flight, or
with an earlier parked request, is *parked* until that batch is over. Bulk requests have a lane of their own, so that
single ones on other wallets never wait behind a thousand commands.
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import Final

from wallet.domain.identifiers import WalletId
from wallet.ledger.requests import Request

WAITING_MAX: Final = 4096
WAITING_PER_WALLET_MAX: Final = WAITING_MAX // 4
"""One hot wallet can't take the room of all the others."""
BATCH_MAX: Final = 1024
"""Commands in a batch; a request is never split over two."""
BULK_WAITING_MAX: Final = 64
"""So many bulk requests, of up to a thousand commands each, are kept in memory."""


def first_batch_of(requests: Iterable[Request]) -> list[Request]:
    """The first requests that somebody waits for and that fit into one batch; a request too big for it goes alone."""
    batch: list[Request] = []
    count = 0
    for request in requests:
        if not request.is_over:
            count += len(request.commands)
            if batch and count > BATCH_MAX:
                break
            batch.append(request)
    return batch


class Gathering:
    """The waiting room of the lanes. Not a coroutine in sight: every method runs to its end at once."""

    def __init__(self) -> None:
        self._ready: dict[bool, deque[Request]] = {False: deque(), True: deque()}
        self._parked: deque[Request] = deque()
        self._busy: set[WalletId] = set()
        self._parked_wallets: Counter[WalletId] = Counter()
        self._waiting_per_wallet: Counter[WalletId] = Counter()
        self._bulk_count = 0

    def __len__(self) -> int:
        return sum(map(len, self._ready.values())) + len(self._parked)

    def has_ready(self, *, is_bulk: bool) -> bool:
        """Whether a lane of this sort that asks now would get a batch."""
        return bool(self._ready[is_bulk])

    def refusal_for(self, request: Request) -> str | None:
        """Why there is no room for this request now, or None."""
        if len(self) >= WAITING_MAX:
            return f"{WAITING_MAX} requests are waiting already"
        if request.is_bulk and self._bulk_count >= BULK_WAITING_MAX:
            return f"{BULK_WAITING_MAX} bulk requests are waiting already"
        if any(self._waiting_per_wallet[wallet_id] >= WAITING_PER_WALLET_MAX for wallet_id in request.wallet_ids):
            return f"{WAITING_PER_WALLET_MAX} requests are waiting for this wallet already"
        return None

    def add(self, request: Request) -> None:
        """Let a request wait at the end."""
        self._bulk_count += request.is_bulk
        for wallet_id in request.wallet_ids:
            self._waiting_per_wallet[wallet_id] += 1
        self._place(request)

    def take(self, *, is_bulk: bool) -> list[Request]:
        """The next batch, oldest first; its wallets are busy until `release`. May be empty."""
        ready = self._ready[is_bulk]
        batch = first_batch_of(ready)
        while ready:
            request = ready.popleft()
            self._forget(request)
            if batch and request is batch[-1]:
                break
        for request in batch:
            self._busy.update(request.wallet_ids)
        self._park_the_rest_of_busy_wallets()
        return batch

    def release(self, batch: list[Request]) -> None:
        """The batch is over: its wallets are free, and what was parked for them becomes ready in order."""
        for request in batch:
            self._busy.difference_update(request.wallet_ids)
        parked, self._parked = self._parked, deque()
        self._parked_wallets.clear()
        for request in parked:
            self._place(request)

    def take_waiting(self, wallet_ids: set[WalletId]) -> list[Request]:
        """Take out all that waits for one of these wallets, in order (they go to the side lane)."""
        queues = (*self._ready.values(), self._parked)
        taken = [each for queue in queues for each in queue if wallet_ids.intersection(each.wallet_ids)]
        if not taken:
            return []
        gone = set(map(id, taken))
        for queue in queues:
            kept = [request for request in queue if id(request) not in gone]
            queue.clear()
            queue.extend(kept)
        for request in taken:
            self._forget(request)
        self.release([])
        return taken

    def _place(self, request: Request) -> None:
        if any(wallet_id in self._busy or self._parked_wallets[wallet_id] > 0 for wallet_id in request.wallet_ids):
            self._parked.append(request)
            self._parked_wallets.update(request.wallet_ids)
        else:
            self._ready[request.is_bulk].append(request)

    def _park_the_rest_of_busy_wallets(self) -> None:
        """What was ready and is not any more is older than anything parked for the same wallets: it goes in front."""
        for ready in self._ready.values():
            if not ready:
                continue
            rest = list(ready)
            ready.clear()
            ahead: list[Request] = []
            blocked: set[WalletId] = set()
            for request in rest:
                if any(wallet_id in self._busy or wallet_id in blocked for wallet_id in request.wallet_ids):
                    ahead.append(request)
                    blocked.update(request.wallet_ids)
                else:
                    ready.append(request)
            self._parked.extendleft(reversed(ahead))
            for request in ahead:
                self._parked_wallets.update(request.wallet_ids)

    def _forget(self, request: Request) -> None:
        self._bulk_count -= request.is_bulk
        for wallet_id in request.wallet_ids:
            self._waiting_per_wallet[wallet_id] -= 1
            if self._waiting_per_wallet[wallet_id] <= 0:
                del self._waiting_per_wallet[wallet_id]
