"""The embedded transport: one worker at a time follows the journal in PostgreSQL, the others stand by.

- The lease is a row with a holder, a token and an end by PostgreSQL's clock. Taking it raises the token; every
  transaction that moves the checkpoint compares the token and prolongs the lease. A worker that was stopped beyond
  its lease and goes on finds another token: its transaction is rolled back.
- The checkpoint moves in the transaction of the effects. After a crash the journal is read from there again.
- A message at fault gets its dead letter first, then the checkpoint moves past it.
- A lease is as old as its connection: with a new one it is taken again, and the checkpoint read again.
- While nothing comes, the journal is looked at every 5 to 200 ms.
"""

import asyncio
import os
import secrets
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from wallet.domain.fraud import FraudRules
from wallet.pacing import Pace
from wallet.postgres.statements import load_statements
from wallet.started import Started, report_started
from wallet.worker.database import Database
from wallet.worker.handle import LeaseLost, handle_group
from wallet.worker.journal import Piece, read_pieces
from wallet.worker.stopping import unless_stopped

if TYPE_CHECKING:
    from wallet.postgres.connections import Connection

LEASE: Final = timedelta(seconds=4)
RENEW_SECONDS: Final = 1.0
STANDBY_SECONDS: Final = 1.0
POLL_SECONDS_MIN: Final = 0.005
POLL_SECONDS_MAX: Final = 0.2

_STATEMENTS = load_statements("wallet.worker", "worker.sql")
_TAKE_LEASE: Final[str] = _STATEMENTS.take_lease
_MOVE_CHECKPOINT: Final[str] = _STATEMENTS.move_checkpoint
_GIVE_UP_LEASE: Final[str] = _STATEMENTS.give_up_lease
_READ_LEFT_BEHIND: Final[str] = _STATEMENTS.read_left_behind
_FORGET_HOLDER: Final[str] = _STATEMENTS.forget_holder

_log = structlog.get_logger()


@dataclass(slots=True)
class _Lease:
    connection: "Connection"
    token: int
    position: int
    renewed_at: float


class FromJournal:
    """Turns of one worker at the journal."""

    def __init__(self, database: Database, rules: FraudRules, stop: asyncio.Event) -> None:
        self._database = database
        self._rules = rules
        self._stop = stop
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._lease: _Lease | None = None
        self._pace = Pace(seconds_min=POLL_SECONDS_MIN, seconds_max=POLL_SECONDS_MAX)

    async def take_turn(self) -> bool:
        """Handle what the journal holds beyond the checkpoint, or wait a moment."""
        connection = await self._database.connection()
        lease = self._lease
        if lease is None or lease.connection is not connection:
            # A new connection may lead to another server, promoted meanwhile, whose checkpoint is an earlier one.
            lease = await self._take_lease(connection)
            report_started(Started.FOLLOWS_JOURNAL)
        if lease is None:
            await unless_stopped(asyncio.sleep(STANDBY_SECONDS), self._stop)
            return True
        pieces = await read_pieces(connection, lease.position)
        for piece in pieces:
            await self._handle(connection, lease, piece)
            if self._stop.is_set():
                break
        if pieces:
            self._pace.reset()
        else:
            await self._idle(connection, lease)
        return True

    async def stand_down(self) -> None:
        """Forget the lease; this worker may take it again at once, by its holder's name."""
        self._lease = None

    async def give_up(self) -> None:
        """Let another worker take over now; what the lease's end would do anyway, only later."""
        if self._lease is not None:
            connection = await self._database.connection()
            await connection.execute(_GIVE_UP_LEASE, self._lease.token)
            self._lease = None
            _log.info("journal_lease_given_up", holder=self._holder)

    async def _take_lease(self, connection: "Connection") -> _Lease | None:
        self._lease = None
        row = await connection.fetchrow(_TAKE_LEASE, self._holder, LEASE)
        if row is None:
            return None
        self._lease = _Lease(connection, row["token"], row["position"], time.monotonic())
        _log.info("journal_lease_taken", holder=self._holder, token=row["token"], position=row["position"])
        return self._lease

    async def _handle(self, connection: "Connection", lease: _Lease, piece: Piece) -> None:
        started = time.monotonic()
        move = partial(_move_checkpoint, lease=lease, position=piece.position)
        handled = await handle_group(connection, piece.messages, self._rules, move)
        lease.position, lease.renewed_at = piece.position, started
        ms = round((time.monotonic() - started) * 1000, 1)
        count = len(piece.messages)
        _log.debug("group_handled", count=count, refused=len(handled.refused), position=piece.position, ms=ms)

    async def _idle(self, connection: "Connection", lease: _Lease) -> None:
        if time.monotonic() - lease.renewed_at > RENEW_SECONDS:
            lease.renewed_at = time.monotonic()
            await _move_checkpoint(connection, lease=lease, position=lease.position)
        await unless_stopped(self._pace.wait(), self._stop)


class LeftBehind(FromJournal):
    """Handles once what an embedded worker left in the journal, for a deployment that has turned to RabbitMQ.

    The relay marked those events as published to the journal only, so the queue will never bring them. That there
    may be some is known by the holder's name in the lease row, which is forgotten when they are handled.
    """

    _until: int | None = None

    async def take_turn(self) -> bool:
        """A turn at the journal, until the position that was its end at the first turn."""
        if self._until is None:
            row = await (await self._database.connection()).fetchrow(_READ_LEFT_BEHIND)
            if row is None:
                return False
            self._until = int(row["until"])
        connection, lease = await self._database.connection(), self._lease
        if lease is None or lease.connection is not connection or lease.position < self._until:
            return await super().take_turn()
        await connection.execute(_FORGET_HOLDER, lease.token)
        _log.info("journal_left_behind_handled", until=self._until)
        self._lease = None
        return False


async def _move_checkpoint(connection: "Connection", *, lease: _Lease, position: int) -> None:
    """Move the checkpoint and prolong the lease; raises LeaseLost if another worker has taken it."""
    if await connection.fetchval(_MOVE_CHECKPOINT, lease.token, position, LEASE) is None:
        raise LeaseLost(f"Another worker has taken the journal over from token {lease.token}.")
