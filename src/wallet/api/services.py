"""The services that the route handlers use, created once for each process."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from wallet.api.routes.health import Health
from wallet.api.routes.integrity_report import IntegrityReports
from wallet.api.routes.static_files import StaticFile
from wallet.domain.commands import Command
from wallet.domain.identifiers import RequestId, WalletId
from wallet.ledger.requests import Answer, BulkAnswer
from wallet.postgres.connections import Pool
from wallet.runtime.metrics import Metrics
from wallet.trail.records import TrailRecord

DECODED_OF_A_CLIENT_MAX: Final = 4
"""Decoding a thousand operations takes milliseconds of the event loop: two requests that run and two that are ready
suffice.
"""

MayConcern = Callable[[WalletId | None, RequestId | None], bool]
"""Returns whether a request may have a key that can still take effect; its wallet and its key may be unknown (None)."""


class Executes(Protocol):
    """What the routes need of the ledger."""

    async def execute(self, command: Command, record: TrailRecord) -> Answer:
        """Execute a command and return its answer. Raises NotExecuted, OutcomeUnknown or CommandFailed."""
        ...

    async def execute_bulk(
        self, commands: Sequence[Command], record: TrailRecord, *, client: str, is_atomic: bool
    ) -> BulkAnswer:
        """Execute the commands of one request, in order. Raises what `execute` raises."""
        ...


class TurnTooLate(Exception):
    """The deadline passed before the request's turn came."""


class DecodingTurns:
    """Limits how many bulk requests of one client are decoded and not yet answered at the same time."""

    def __init__(self, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._request_counts: Counter[str] = Counter()

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for the client's turn. Raises TurnTooLate after the deadline."""
        turns = self._turns.setdefault(client, asyncio.Semaphore(DECODED_OF_A_CLIENT_MAX))
        self._request_counts[client] += 1
        try:
            try:
                async with asyncio.timeout(self._deadline_seconds):
                    await turns.acquire()
            except TimeoutError:
                raise TurnTooLate from None
            try:
                yield
            finally:
                turns.release()
        finally:
            self._request_counts[client] -= 1
            if not self._request_counts[client]:
                del self._request_counts[client], self._turns[client]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of the process that the handlers use."""

    ledger: Executes
    may_concern: MayConcern
    decoding_turns: DecodingTurns
    is_stepwise: bool
    reads: Pool
    health: Health
    integrity: IntegrityReports
    metrics: Metrics
    files: Mapping[str, StaticFile]
    """The files by name: the OpenAPI document, and the files of Swagger UI if it is enabled."""
