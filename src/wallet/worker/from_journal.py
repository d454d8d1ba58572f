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
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

import structlog
from asyncpg import Record

from wallet.fraud.rules import FraudRules
from wallet.postgres.connections import Connection
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.postgres.lease import Lease, LeaseTable, new_holder
from wallet.postgres.session import NotMigrated, Session
from wallet.postgres.statements import load_statements
from wallet.runtime.loop import Backoff, unless_stopped
from wallet.runtime.standby import Standby
from wallet.runtime.started import Started, report_started
from wallet.worker.effects import MoveCheckpoint
from wallet.worker.group_size import GroupSize
from wallet.worker.handle import Handled, handle_group
from wallet.worker.journal import (
    PASSED_MAX,
    PIECE_SIZE_MAX,
    JournalMessage,
    Piece,
    check_rows,
    pass_by_broker,
    read_pieces,
)
from wallet.worker.loop import APPLICATION, run_loop

CHECKPOINT: Final = LeaseTable("worker_checkpoint", timedelta(seconds=4))
RENEW_SECONDS: Final = 1.0
GIVE_UP_SECONDS: Final = 2.0
STANDBY_SECONDS: Final = 1.0
POLL_SECONDS_MIN: Final = 0.005
POLL_SECONDS_MAX: Final = 0.2
BESIDE_QUEUE_POLL_SECONDS_MAX: Final = 1.0
"""Beside a queue there is nothing to handle, unless relays and workers differ in their transport."""

_SQL: Final = load_statements("wallet.worker", "worker.sql")

_log = structlog.get_logger()


@dataclass(slots=True)
class _Following:
    """How far the holder of the lease has come, on the connection that it took the lease on."""

    connection: Connection
    lease: Lease
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

    def __init__(self, session: Session, rules: FraudRules, stop: asyncio.Event) -> None:
        self._session = session
        self._rules = rules
        self._stop = stop
        self._holder = new_holder()
        self._following: _Following | None = None
        self._standby = Standby(_log, "journal_stands_by")
        self._pace = Backoff(seconds_min=POLL_SECONDS_MIN, seconds_max=self.poll_seconds_max)
        self._group_size = GroupSize(PIECE_SIZE_MAX)

    async def take_turn(self) -> None:
        """Handle what the journal holds beyond the checkpoint, or wait a moment."""
        connection = await self._session.connection()
        following = self._following
        if following is None or following.connection is not connection:
            # A new connection may lead to another server, promoted meanwhile, whose checkpoint is an earlier one.
            following = await self._take_lease(connection)
            if self._is_started_by_following:
                report_started(Started.FOLLOWS_JOURNAL)
        if following is None:
            await unless_stopped(asyncio.sleep(STANDBY_SECONDS), self._stop)
            return
        pieces = await self._next_pieces(connection, following)
        for piece in pieces:
            await self._handle(connection, following, piece)
            if self._stop.is_set():
                break
        if pieces:
            self._pace.reset()
        else:
            await self._idle(connection, following)

    async def stand_down(self) -> None:
        """Forget the lease; this worker may take it again at once, by its holder's name."""
        self._following = None

    async def give_up(self) -> None:
        """Let another worker take over now; what the lease's end would do anyway, only later."""
        if self._following is not None:
            await self._following.lease.release(await self._session.connection())
            self._following = None
            _log.info("journal_lease_given_up", holder=self._holder)

    async def _next_pieces(self, connection: Connection, following: _Following) -> list[Piece]:
        return await read_pieces(connection, following.followed)

    def _begin_at(self, row: Record) -> int:
        """Returns where to begin. What was only passed over is handled here: a queue may never bring it."""
        return int(row["position"])

    async def _take_lease(self, connection: Connection) -> _Following | None:
        self._following = None
        lease = await CHECKPOINT.take(connection, self._holder, self._standby)
        if lease is None:
            return None
        position, begin_at = lease.row["position"], self._begin_at(lease.row)
        self._following = _Following(connection, lease, position, begin_at, time.monotonic())
        _log.info("journal_lease_taken", holder=self._holder, token=lease.token, position=begin_at)
        return self._following

    async def _handle(self, connection: Connection, following: _Following, piece: Piece) -> None:
        started = time.monotonic()
        position, followed = following.move(piece.position)
        move = partial(_move_checkpoint, following=following, position=position, followed=followed)
        try:
            handled = await self._handle_in_groups(connection, piece.messages, move)
        except BaseException:
            self._group_size.note_failure()
            raise
        self._group_size.note_success()
        following.position, following.followed, following.renewed_at = position, followed, started
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

    async def _idle(self, connection: Connection, following: _Following) -> None:
        if time.monotonic() - following.renewed_at > RENEW_SECONDS:
            following.renewed_at = time.monotonic()
            await _move_checkpoint(
                connection, following=following, position=following.position, followed=following.followed
            )
        await unless_stopped(self._pace.wait(), self._stop)


class BesideQueue(FromJournal):
    """Turns of one worker with a broker: handles what a relay without the broker published.

    That happens while a deployment changes its transport, and for as long as relays and workers differ in it.
    """

    poll_seconds_max = BESIDE_QUEUE_POLL_SECONDS_MAX
    _is_started_by_following = False
    _has_warned = False

    def _begin_at(self, row: Record) -> int:
        return max(int(row["position"]), int(row["followed_position"]))

    async def _next_pieces(self, connection: Connection, following: _Following) -> list[Piece]:
        passed = await pass_by_broker(connection, following.followed)
        if passed.position - following.followed == PASSED_MAX:
            # There are probably more: the next turn comes soon, after the lease was renewed if that is due.
            self._pace.reset()
        following.followed = passed.position
        if not passed.has_unconfirmed:
            return []
        self._warn(following)
        return await read_pieces(connection, following.followed, with_confirmed=False)

    def _warn(self, following: _Following) -> None:
        if not self._has_warned:
            self._has_warned = True
            reason = "a relay without RABBITMQ_URL published them; this worker handles them from the journal"
            _log.warning("journal_has_events_without_broker", position=following.followed + 1, reason=reason)


async def _move_checkpoint(connection: Connection, *, following: _Following, position: int, followed: int) -> None:
    """Move the checkpoint and renew the lease; raises LeaseLost if another worker has taken it."""
    lease = following.lease
    if await connection.fetchval(_SQL.move_checkpoint, lease.token, position, followed, CHECKPOINT.length) is None:
        raise lease.lost()


async def follow_journal(kind: type[FromJournal], dsn: str, rules: FraudRules, stop: asyncio.Event) -> None:
    """Handle what is in the journal until `stop`, then let another worker take over."""
    async with Session(dsn, application_name=APPLICATION) as session:
        transport = kind(session, rules, stop)
        await run_loop(transport, session, stop)
        with suppress(*DATABASE_ERRORS, NotMigrated):
            async with asyncio.timeout(GIVE_UP_SECONDS):
                await transport.give_up()
