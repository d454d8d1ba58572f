"""Where requests wait for a lane: bounded, fair, and in order for every wallet.

A wallet is in at most one batch in flight, so its commands keep their order and lanes never wait for each
other. A request whose wallets are all free is *ready*; one that shares a wallet with a batch in flight, or
with an earlier parked request, is *parked* until that batch is over.
"""

from collections import Counter, deque
from typing import Final

from wallet.domain.identifiers import WalletId
from wallet.ledger.requests import Request

WAITING_MAX: Final = 4096
WAITING_PER_WALLET_MAX: Final = WAITING_MAX // 4
"""One hot wallet can't take the room of all the others."""
BATCH_MAX: Final = 1024


class Gathering:
    """The waiting room of the lanes. Not a coroutine in sight: every method runs to its end at once."""

    def __init__(self) -> None:
        self._ready: deque[Request] = deque()
        self._parked: deque[Request] = deque()
        self._busy: set[WalletId] = set()
        self._parked_wallets: Counter[WalletId] = Counter()
        self._waiting_per_wallet: Counter[WalletId] = Counter()

    def __len__(self) -> int:
        return len(self._ready) + len(self._parked)

    @property
    def has_ready(self) -> bool:
        """Whether a lane that asks now would get a batch."""
        return bool(self._ready)

    def refusal_for(self, request: Request) -> str | None:
        """Why there is no room for this request now, or None."""
        if len(self) >= WAITING_MAX:
            return f"{WAITING_MAX} requests are waiting already"
        if any(self._waiting_per_wallet[wallet_id] >= WAITING_PER_WALLET_MAX for wallet_id in request.wallet_ids):
            return f"{WAITING_PER_WALLET_MAX} requests are waiting for this wallet already"
        return None

    def add(self, request: Request) -> None:
        """Let a request wait at the end."""
        for wallet_id in request.wallet_ids:
            self._waiting_per_wallet[wallet_id] += 1
        if self._is_blocked(request):
            self._park(request)
        else:
            self._ready.append(request)

    def take(self) -> list[Request]:
        """The next batch, oldest first; its wallets are busy until `release`. May be empty."""
        batch: list[Request] = []
        while self._ready and len(batch) < BATCH_MAX:
            request = self._ready.popleft()
            self._forget(request)
            if not request.is_over:
                batch.append(request)
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
            if self._is_blocked(request):
                self._park(request)
            else:
                self._ready.append(request)

    def take_waiting(self, wallet_ids: set[WalletId]) -> list[Request]:
        """Take out all that waits for one of these wallets, in order (they go to the side lane)."""
        taken = [request for request in (*self._ready, *self._parked) if wallet_ids.intersection(request.wallet_ids)]
        if not taken:
            return []
        gone = set(map(id, taken))
        self._ready = deque(request for request in self._ready if id(request) not in gone)
        self._parked = deque(request for request in self._parked if id(request) not in gone)
        for request in taken:
            self._forget(request)
        self.release([])
        return taken

    def _is_blocked(self, request: Request) -> bool:
        return any(wallet_id in self._busy or self._parked_wallets[wallet_id] > 0 for wallet_id in request.wallet_ids)

    def _park(self, request: Request) -> None:
        self._parked.append(request)
        self._parked_wallets.update(request.wallet_ids)

    def _park_the_rest_of_busy_wallets(self) -> None:
        """What a full batch left behind is older than anything parked for the same wallets: it goes in front."""
        if not self._ready:
            return
        rest, self._ready = self._ready, deque()
        ahead: list[Request] = []
        blocked: set[WalletId] = set()
        for request in rest:
            if any(wallet_id in self._busy or wallet_id in blocked for wallet_id in request.wallet_ids):
                ahead.append(request)
                blocked.update(request.wallet_ids)
            else:
                self._ready.append(request)
        self._parked.extendleft(reversed(ahead))
        for request in ahead:
            self._parked_wallets.update(request.wallet_ids)

    def _forget(self, request: Request) -> None:
        for wallet_id in request.wallet_ids:
            self._waiting_per_wallet[wallet_id] -= 1
            if self._waiting_per_wallet[wallet_id] <= 0:
                del self._waiting_per_wallet[wallet_id]
