"""The side lane: requests on wallets that someone outside holds wait here, so that nobody else has to.

One connection, first in first out for each wallet, until the request's deadline. New requests on a held wallet come
straight here until none is left.
"""

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Final

from wallet.domain.identifiers import WalletId
from wallet.ledger.answers import NotExecuted, Render
from wallet.ledger.gathering import BATCH_MAX, WAITING_PER_WALLET_MAX
from wallet.ledger.lane import Lane
from wallet.ledger.requests import Request
from wallet.ledger.transaction import BatchMode

RETRY_SECONDS_FIRST: Final = 0.01
RETRY_SECONDS_MAX: Final = 0.2
SIDE_LOCK_MS: Final = 50
"""Short, because only a wallet that another transaction is just creating can still make this lane wait."""


class SideLane:
    """Tries its waiting requests again and again, stepping over the wallets that are still held."""

    def __init__(self, dsn: str, *, render: Render, mode: BatchMode) -> None:
        self._lane = Lane(dsn, name="side lane", render=render, lock_ms=SIDE_LOCK_MS)
        self._mode = replace(mode, skip_locked=True)
        self._waiting: list[Request] = []
        self._held: Counter[WalletId] = Counter()
        self._changed = asyncio.Event()
        self._stopping = False

    def __len__(self) -> int:
        return len(self._waiting)

    def holds(self, request: Request) -> bool:
        """Whether the request must wait here, behind others on one of its wallets."""
        return bool(self._held) and any(self._held[wallet_id] for wallet_id in request.wallet_ids)

    def add(self, requests: list[Request]) -> None:
        """Let requests wait here, at the end; one wallet can't take all the room."""
        for request in requests:
            if any(self._held[wallet_id] >= WAITING_PER_WALLET_MAX for wallet_id in request.wallet_ids):
                request.fail(
                    NotExecuted("The wallet is held by someone else, and too many requests wait for it.")
                )
            else:
                self._waiting.append(request)
                self._held.update(request.wallet_ids)
        self._changed.set()

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
        batch = [request for request in self._waiting if not request.is_over][:BATCH_MAX]
        still_held: list[Request] = []
        if batch:
            await self._lane.process(batch, mode=self._mode, hold_back=still_held.extend)
        self._waiting = [request for request in self._waiting if not request.is_over]
        self._held = Counter(wallet_id for request in self._waiting for wallet_id in request.wallet_ids)
        return len(still_held) < len(batch)
