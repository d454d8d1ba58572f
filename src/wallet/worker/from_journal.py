"""Follows the journal in PostgreSQL: one worker at a time by a lease, the others stand by.

Every worker does so, with a broker or without, so that no event depends on which transport other processes have:

- Without a broker (`FromJournal`, the embedded transport) it handles every published batch beyond `position`. What
  the queue brought before, or still holds, is known by the inbox when it comes again.
- With a broker (`BesideQueue`) it handles the batches that a relay without a broker published, and passes over those
  that a broker confirmed. It moves `followed_position` over both, and `position` only where nothing was passed over;
  so a worker without a broker that takes over later handles what was left in the queue.

- The lease is a row with a holder, a token and an end by PostgreSQL's clock. Taking it raises the token; every
  transaction that moves the checkpoint compares the token and prolongs the lease. A worker that was stopped beyond
  its lease and goes on finds another token: its transaction is rolled back.
- The checkpoint moves in the transaction of the effects. After a crash the journal is read from there again.
- A message at fault gets its dead letter first, then the checkpoint moves past it.
- A lease is as old as its connection: with a new one it is taken again, and the checkpoint read again.
- A batch that is not published yet is waited for: how it will be published is decided then.
- While nothing comes, the journal is looked at every 5 to 200 ms, beside a queue every second.
"""

import asyncio
import os
import secrets
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

import structlog
from asyncpg import Record

from wallet.fraud.rules import FraudRules
from wallet.postgres.connections import Connection
from wallet.postgres.statements import load_statements
from wallet.runtime.loop import Pace
from wallet.runtime.standby import Standby
from wallet.runtime.started import Started, report_started
from wallet.worker.database import Database
from wallet.worker.effects import MoveCheckpoint
from wallet.worker.group_size import GroupSize
from wallet.worker.handle import Handled, LeaseLost, handle_group
from wallet.worker.journal import (
    PASSED_MAX,
    PIECE_SIZE_MAX,
    JournalMessage,
    Piece,
    check_rows,
    pass_by_broker,
    read_pieces,
)
from wallet.worker.stopping import unless_stopped

LEASE: Final = timedelta(seconds=4)
RENEW_SECONDS: Final = 1.0
STANDBY_SECONDS: Final = 1.0
POLL_SECONDS_MIN: Final = 0.005
POLL_SECONDS_MAX: Final = 0.2
BESIDE_QUEUE_POLL_SECONDS_MAX: Final = 1.0
"""Beside a queue there is nothing to handle, unless relays and workers differ in their transport."""

_STATEMENTS = load_statements("wallet.worker", "worker.sql")
_TAKE_LEASE: Final[str] = _STATEMENTS.take_lease
_MOVE_CHECKPOINT: Final[str] = _STATEMENTS.move_checkpoint
_GIVE_UP_LEASE: Final[str] = _STATEMENTS.give_up_lease
_READ_LEASE: Final[str] = _STATEMENTS.read_lease

_log = structlog.get_logger()


@dataclass(slots=True)
class _Lease:
    connection: Connection
    token: int
    position: int
    """Every batch up to here has its effects."""
    followed: int
    """Every batch up to here has its effects, or a broker confirmed it."""
    renewed_at: float

    def move(self, position: int) -> tuple[int, int]:
        """Returns `position` and `followed` once every batch after `followed` up to a position has its effects."""
        return position if self.position >= self.followed else self.position, position


class FromJournal:
    """Turns of one worker without a broker at the journal."""

    poll_seconds_max = POLL_SECONDS_MAX
    _is_started_by_following = True

    def __init__(self, database: Database, rules: FraudRules, stop: asyncio.Event) -> None:
        self._database = database
        self._rules = rules
        self._stop = stop
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._lease: _Lease | None = None
        self._standby = Standby(_log, "journal_stands_by")
        self._pace = Pace(seconds_min=POLL_SECONDS_MIN, seconds_max=self.poll_seconds_max)
        self._group_size = GroupSize(PIECE_SIZE_MAX)

    async def take_turn(self) -> None:
        """Handle what the journal holds beyond the checkpoint, or wait a moment."""
        connection = await self._database.connection()
        lease = self._lease
        if lease is None or lease.connection is not connection:
            # A new connection may lead to another server, promoted meanwhile, whose checkpoint is an earlier one.
            lease = await self._take_lease(connection)
            if self._is_started_by_following:
                report_started(Started.FOLLOWS_JOURNAL)
        if lease is None:
            await unless_stopped(asyncio.sleep(STANDBY_SECONDS), self._stop)
            return
        pieces = await self._next_pieces(connection, lease)
        for piece in pieces:
            await self._handle(connection, lease, piece)
            if self._stop.is_set():
                break
        if pieces:
            self._pace.reset()
        else:
            await self._idle(connection, lease)

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

    async def _next_pieces(self, connection: Connection, lease: _Lease) -> list[Piece]:
        return await read_pieces(connection, lease.followed)

    def _begin_at(self, row: Record) -> int:
        """Returns where to begin. What was only passed over is handled here: a queue may never bring it."""
        return int(row["position"])

    async def _take_lease(self, connection: Connection) -> _Lease | None:
        self._lease = None
        row = await connection.fetchrow(_TAKE_LEASE, self._holder, LEASE)
        if row is None:
            held = await connection.fetchrow(_READ_LEASE)
            if held is not None:
                self._standby.report(held["holder"], held["lease_until"])
            return None
        self._standby.reset()
        position = row["position"]
        self._lease = _Lease(connection, row["token"], position, self._begin_at(row), time.monotonic())
        _log.info("journal_lease_taken", holder=self._holder, token=row["token"], position=self._lease.followed)
        return self._lease

    async def _handle(self, connection: Connection, lease: _Lease, piece: Piece) -> None:
        started = time.monotonic()
        position, followed = lease.move(piece.position)
        move = partial(_move_checkpoint, lease=lease, position=position, followed=followed)
        try:
            handled = await self._handle_in_groups(connection, piece.messages, move)
        except BaseException:
            self._group_size.note_failure()
            raise
        self._group_size.note_success()
        lease.position, lease.followed, lease.renewed_at = position, followed, started
        ms = round((time.monotonic() - started) * 1000, 1)
        count = len(piece.messages)
        _log.debug("group_handled", count=count, refused=len(handled.refused), position=piece.position, ms=ms)

    async def _handle_in_groups(
        self, connection: Connection, messages: list[JournalMessage], move: MoveCheckpoint
    ) -> Handled[JournalMessage]:
        """Handle the messages of a piece; the checkpoint moves with the last of them. Returns what became of these."""
        size = self._group_size.current
        while len(messages) > size:
            await handle_group(connection, messages[:size], self._rules, check=check_rows)
            messages = messages[size:]
        return await handle_group(connection, messages, self._rules, check=check_rows, move_checkpoint=move)

    async def _idle(self, connection: Connection, lease: _Lease) -> None:
        if time.monotonic() - lease.renewed_at > RENEW_SECONDS:
            lease.renewed_at = time.monotonic()
            await _move_checkpoint(connection, lease=lease, position=lease.position, followed=lease.followed)
        await unless_stopped(self._pace.wait(), self._stop)


class BesideQueue(FromJournal):
    """Turns of one worker with a broker: handles what a relay without the broker published.

    That happens while a deployment changes its transport, and for as long as relays and workers differ in it.
    """

    poll_seconds_max = BESIDE_QUEUE_POLL_SECONDS_MAX
    _is_started_by_following = False
    _has_warned = False

    def _begin_at(self, row: Record) -> int:
        return int(row["followed_position"])

    async def _next_pieces(self, connection: Connection, lease: _Lease) -> list[Piece]:
        passed = await pass_by_broker(connection, lease.followed)
        if passed.position - lease.followed == PASSED_MAX:
            # There are probably more: the next turn comes soon, after the lease was renewed if that is due.
            self._pace.reset()
        lease.followed = passed.position
        if not passed.has_unconfirmed:
            return []
        self._warn(lease)
        return await read_pieces(connection, lease.followed, with_confirmed=False)

    def _warn(self, lease: _Lease) -> None:
        if not self._has_warned:
            self._has_warned = True
            reason = "a relay without RABBITMQ_URL published them; this worker handles them from the journal"
            _log.warning("journal_has_events_without_broker", position=lease.followed + 1, reason=reason)


async def _move_checkpoint(connection: Connection, *, lease: _Lease, position: int, followed: int) -> None:
    """Move the checkpoint and prolong the lease; raises LeaseLost if another worker has taken it."""
    if await connection.fetchval(_MOVE_CHECKPOINT, lease.token, position, followed, LEASE) is None:
        raise LeaseLost(f"Another worker has taken the journal over from token {lease.token}.")
