"""The side lane: requests on wallets that another session has locked wait here, so that no other request has to.

One connection, first in first out for each wallet, until the request's deadline. New requests on a locked wallet go
directly here until none is left.
"""

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import chain
from typing import Final

from wallet.domain.identifiers import WalletId
from wallet.ledger.answers import Render
from wallet.ledger.gathering import WAITING_PER_WALLET_MAX, first_batch_of
from wallet.ledger.known_wallets import KnownWallets
from wallet.ledger.lane import Lane
from wallet.ledger.requests import Request
from wallet.ledger.transaction import BatchMode

RETRY_SECONDS_FIRST: Final = 0.01
RETRY_SECONDS_MAX: Final = 0.2
SIDE_LOCK_MS: Final = 50
"""Short, because only a wallet that another transaction is just creating can still make this lane wait."""


class SideLane:
    """Retries its waiting requests, and skips the wallets that are still locked."""

    def __init__(self, dsn: str, *, render: Render, mode: BatchMode, known: KnownWallets) -> None:
        self._lane = Lane(dsn, name="side lane", render=render, known=known, lock_ms=SIDE_LOCK_MS)
        self._mode = replace(mode, skip_locked=True)
        self._waiting: list[Request] = []
        self._locked_elsewhere: set[WalletId] = set()
        self._count_per_wallet: Counter[WalletId] = Counter()
        self._changed = asyncio.Event()
        self._stopping = False

    def __len__(self) -> int:
        return len(self._waiting)

    def must_take(self, request: Request) -> bool:
        """Whether the request must wait here, behind others on a locked wallet."""
        return not self._locked_elsewhere.isdisjoint(request.wallet_ids)

    def add(self, requests: list[Request], locked_elsewhere: set[WalletId]) -> None:
        """Let requests wait here, at the end; one wallet can't take all the room."""
        self._locked_elsewhere |= locked_elsewhere
        for request in requests:
            if self._is_full_for(request):
                request.refuse("The wallet is locked by another transaction, and too many requests wait for it.")
            else:
                self._waiting.append(request)
                self._count_per_wallet.update(request.wallet_ids)
        self._changed.set()

    def _is_full_for(self, request: Request) -> bool:
        return any(self._count_per_wallet[wallet_id] >= WAITING_PER_WALLET_MAX for wallet_id in request.wallet_ids)

    def stop(self) -> None:
        """Let `run` return once nothing waits here."""
        self._stopping = True
        self._changed.set()

    async def run(self) -> None:
        """Work until stopped and empty."""
        delay = RETRY_SECONDS_FIRST
        try:
            while self._waiting or not self._stopping:
                if not self._waiting:
                    self._changed.clear()
                    await self._changed.wait()
                    delay = RETRY_SECONDS_FIRST
                elif await self._try_all():
                    delay = RETRY_SECONDS_FIRST
                else:
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, RETRY_SECONDS_MAX)
        finally:
            await self._lane.close()

    async def _try_all(self) -> bool:
        """One round over the oldest requests; whether any of them came to its end."""
        batch = first_batch_of(self._waiting)
        deferred: list[Request] = []
        locked_elsewhere: set[WalletId] = set()

        def defer(requests: list[Request], wallet_ids: set[WalletId]) -> None:
            deferred.extend(requests)
            locked_elsewhere.update(wallet_ids)

        if batch:
            await self._lane.process(batch, mode=self._mode, defer=defer)
        tried = set(map(id, batch))
        self._waiting = [request for request in self._waiting if not request.is_over]
        untried = [request.wallet_ids for request in self._waiting if id(request) not in tried]
        self._locked_elsewhere = locked_elsewhere | self._locked_elsewhere.intersection(chain.from_iterable(untried))
        self._count_per_wallet = Counter(wallet_id for request in self._waiting for wallet_id in request.wallet_ids)
        return len(deferred) < len(batch)
