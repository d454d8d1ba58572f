"""Follows the journal in PostgreSQL, in pieces of bounded size. A lease allows one worker at a time; the others stand
by.

A piece has at most PIECE_SIZE_MAX events, of one batch or of several. `position` is the last batch that is complete
when the piece has been handled; the checkpoint moves there. After a crash, pieces of a batch that were already handled
are read again, and the inbox recognises their events; so the checkpoint needs no position inside a batch.

Reading stops at a batch whose events are not all visible yet, and at a gap in the positions, until they are visible.

Workers with a broker follow the journal too, so that no event depends on which transport other processes use:

- Without a broker (`FromJournal`, the embedded transport) it handles every published batch after `position`. The inbox
  recognises events that the queue delivered before, or will still deliver.
- With a broker (`BesideQueue`) it handles the batches that a relay without a broker published, and skips those that a
  broker confirmed. It moves `followed_position` over both, and `position` only if nothing was skipped. So a worker
  without a broker that takes over later handles what was left in the queue.

- The lease is a row with a holder, a token and an end by PostgreSQL's clock. Taking it raises the token; every
  transaction that moves the checkpoint compares the token and renews the lease. If a worker is suspended for longer
  than its lease and then resumes, it finds another token, and its transaction is rolled back.
- The checkpoint moves in the transaction of the effects. After a crash the journal is read again from there.
- For a message at fault, the dead letter is committed first; then the checkpoint moves past the message.
- On a new connection the lease is taken again, and the checkpoint is read again.
- The worker waits for a batch that is not published yet, because only its publication decides whether the queue or the
  journal delivers it.
- Without new events, the journal is polled every 5 to 200 ms; by a worker with a broker, every two seconds.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import takewhile
from typing import Any, Final

import structlog
from asyncpg import Record

from wallet.postgres.connections import Connection
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.postgres.lease import Lease, LeaseTable, new_holder
from wallet.postgres.session import NotMigrated, Session
from wallet.postgres.statements import load_statements
from wallet.runtime.loop import Backoff, unless_stopped
from wallet.runtime.started import Standby, Started, report_started
from wallet.wire.envelope import StoredEvent, UndecodableMessage, encode_envelope, expect_known
from wallet.worker.effects import MoveCheckpoint
from wallet.worker.handle import APPLICATION, GroupHandler, GroupSize, Handled, run_loop
from wallet.worker.messages import Checked, RefusedMessage, logged_event_of, refusal_of

PIECE_SIZE_MAX: Final = 200
BATCHES_READ_MAX: Final = 500
EVENTS_READ_MAX: Final = 2_000
"""How many events are read at once, unless a single batch has more."""
PASSED_MAX: Final = 5_000
"""How many batches are skipped at once: this takes an index scan of a few milliseconds."""

_SQL: Final = load_statements("wallet.worker", "worker.sql")
CHECKPOINT: Final = LeaseTable("worker_checkpoint", timedelta(seconds=4))
RENEW_SECONDS: Final = 1.0
GIVE_UP_SECONDS: Final = 2.0
STANDBY_SECONDS: Final = 1.0
POLL_SECONDS_MIN: Final = 0.005
POLL_SECONDS_MAX: Final = 0.2
BESIDE_QUEUE_POLL_SECONDS_MAX: Final = 2.0
"""A worker with a broker has nothing to handle here, unless relays and workers differ in their transport."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class JournalMessage:
    """A row of the log as a message, so that both transports share the handlers. Its body is built only on request."""

    row: Record
    headers: dict[str, Any] = field(default_factory=dict)
    whole: None = None

    @property
    def message_id(self) -> str:
        """Returns the event id."""
        return str(self.row["event_id"])

    @property
    def type(self) -> str:
        """Returns the event type."""
        return str(self.row["type"])

    @property
    def body(self) -> bytes:
        """Returns the message that RabbitMQ would deliver; a dead letter stores it."""
        row = self.row
        stored = StoredEvent(
            row["event_id"],
            row["type"],
            row["schema_version"],
            row["occurred_at"],
            row["wallet_id"],
            row["version"],
            row["payload_json"],
        )
        return encode_envelope(stored, row["position"])


@dataclass(frozen=True, slots=True)
class Piece:
    """Messages to handle together, and the position to which the checkpoint moves with their effects."""

    messages: list[JournalMessage]
    position: int


@dataclass(frozen=True, slots=True)
class Passed:
    """A position up to which all batches were confirmed by a broker and skipped, and whether an unconfirmed batch
    follows.
    """

    position: int
    has_unconfirmed: bool


async def pass_by_broker(connection: Connection, position: int) -> Passed:
    """Skip the batches after a position that a broker confirmed: the queue delivers them. One round trip."""
    row = await connection.fetchrow(_SQL.pass_by_broker, position, PASSED_MAX)
    assert row is not None
    return Passed(row["position"], row["has_unconfirmed"])


async def read_pieces(connection: Connection, position: int, *, with_confirmed: bool = True) -> list[Piece]:
    """Returns the next pieces after a position, in order, or none if there is nothing to read. At most two round trips.

    If `with_confirmed` is false, reading stops at a batch that a broker confirmed.
    """
    rows = await connection.fetch(_SQL.read_journal, position, BATCHES_READ_MAX)
    if not with_confirmed:
        rows = list(takewhile(lambda row: not row["is_confirmed"], rows))
    batches = _bounded(rows, position)
    if not batches:
        return []
    events = await connection.fetch(
        _SQL.read_batches, [batch["batch_id"] for batch in batches], [batch["position"] for batch in batches]
    )
    until = _last_whole(batches, events, position)
    if until == position:
        return []
    return _cut([event for event in events if event["position"] <= until], until)


def _bounded(batches: Sequence[Record], position: int) -> list[Record]:
    """Returns the batches up to the first gap or the limit of events. The limit never excludes the first batch."""
    bounded: list[Record] = []
    count = 0
    for expected, batch in enumerate(batches, start=position + 1):
        count += batch["event_count"]
        if batch["position"] != expected or (bounded and count > EVENTS_READ_MAX):
            break
        bounded.append(batch)
    return bounded


def _last_whole(batches: Sequence[Record], events: Sequence[Record], position: int) -> int:
    """Returns the last position up to which all events are visible, or `position` if the first batch is incomplete."""
    visible: dict[int, int] = {}
    for event in events:
        visible[event["position"]] = visible.get(event["position"], 0) + 1
    for batch in batches:
        if visible.get(batch["position"], 0) < batch["event_count"]:
            break
        position = batch["position"]
    return position


def _cut(events: Sequence[Record], until: int) -> list[Piece]:
    if not events:
        return [Piece([], until)]
    pieces: list[Piece] = []
    for start in range(0, len(events), PIECE_SIZE_MAX):
        end = start + PIECE_SIZE_MAX
        # Positions have no gap, so every batch before that of the next event is complete.
        position = events[end]["position"] - 1 if end < len(events) else until
        pieces.append(Piece([JournalMessage(event) for event in events[start:end]], position))
    return pieces


async def check_rows(
    _connection: Connection, messages: Sequence[JournalMessage]
) -> tuple[list[Checked[JournalMessage]], list[RefusedMessage[JournalMessage]]]:
    """Separate the events that a newer program wrote. Rows are not compared with the log, because they are the log."""
    checked: list[Checked[JournalMessage]] = []
    refused: list[RefusedMessage[JournalMessage]] = []
    for message in messages:
        try:
            expect_known(message.row["type"], message.row["schema_version"])
        except UndecodableMessage as error:
            refused.append(refusal_of(message, error))
        else:
            checked.append(Checked(message, logged_event_of(message.row)))
    return checked, refused


@dataclass(slots=True)
class _Following:
    """How far the holder of the lease has come, and the connection on which it took the lease."""

    connection: Connection
    lease: Lease
    position: int
    """Every batch up to this position has its effects."""
    followed: int
    """Every batch up to this position has its effects, or a broker confirmed it."""
    renewed_at: float

    def move(self, position: int) -> tuple[int, int]:
        """Returns the new `position` and `followed`, given that every batch up to the argument has been handled."""
        return position if self.position >= self.followed else self.position, position


class FromJournal:
    """Runs the journal turns of one worker without a broker."""

    poll_seconds_max = POLL_SECONDS_MAX
    _is_started_by_following = True

    def __init__(self, session: Session, handler: GroupHandler, stop: asyncio.Event) -> None:
        self._session = session
        self._handler = handler
        self._stop = stop
        self._holder = new_holder()
        self._following: _Following | None = None
        self._standby = Standby(_log, "journal_stands_by")
        self._backoff = Backoff(seconds_min=POLL_SECONDS_MIN, seconds_max=self.poll_seconds_max)
        self._group_size = GroupSize(PIECE_SIZE_MAX)

    async def take_turn(self) -> None:
        """Handle the journal's events after the checkpoint, or wait a moment."""
        connection = await self._session.connection()
        following = self._following
        if following is None or following.connection is not connection:
            # A new connection may lead to another server, promoted in the meantime, whose checkpoint is an earlier one.
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
            self._backoff.reset()
        else:
            await self._idle(connection, following)

    async def stand_down(self) -> None:
        """Forget the lease; this worker can take it again at once, because it uses the same holder name."""
        self._following = None

    async def give_up(self) -> None:
        """Release the lease so that another worker can take over now, instead of when the lease ends."""
        if self._following is not None:
            await self._following.lease.release(await self._session.connection())
            self._following = None
            _log.info("journal_lease_given_up", holder=self._holder)

    async def _next_pieces(self, connection: Connection, following: _Following) -> list[Piece]:
        return await read_pieces(connection, following.followed)

    def _begin_at(self, row: Record) -> int:
        """Returns where to begin. Batches that were only skipped are handled here, because a queue may never deliver
        them.
        """
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
        """Handle the messages of a piece in groups; the checkpoint moves with the last group. Returns the result of
        that group.
        """
        size = self._group_size.current
        while len(messages) > size:
            await self._handler.handle(connection, messages[:size], check_rows)
            messages = messages[size:]
        return await self._handler.handle(connection, messages, check_rows, move)

    async def _idle(self, connection: Connection, following: _Following) -> None:
        if time.monotonic() - following.renewed_at > RENEW_SECONDS:
            following.renewed_at = time.monotonic()
            await _move_checkpoint(
                connection, following=following, position=following.position, followed=following.followed
            )
        await unless_stopped(self._backoff.wait(), self._stop)


class BesideQueue(FromJournal):
    """Runs the journal turns of one worker with a broker: handles what a relay without the broker published.

    Such batches exist while a deployment changes its transport, and for as long as relays and workers differ in it.
    """

    poll_seconds_max = BESIDE_QUEUE_POLL_SECONDS_MAX
    _is_started_by_following = False
    _has_warned = False

    def _begin_at(self, row: Record) -> int:
        return max(int(row["position"]), int(row["followed_position"]))

    async def _next_pieces(self, connection: Connection, following: _Following) -> list[Piece]:
        passed = await pass_by_broker(connection, following.followed)
        if passed.position - following.followed == PASSED_MAX:
            # There are probably more: the next turn starts soon, after renewing the lease if that is due.
            self._backoff.reset()
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
    """Move the checkpoint and renew the lease. Raises LeaseLost if another worker has taken it."""
    lease = following.lease
    if await connection.fetchval(_SQL.move_checkpoint, lease.token, position, followed, CHECKPOINT.length) is None:
        raise lease.lost()


async def follow_journal(kind: type[FromJournal], dsn: str, handler: GroupHandler, stop: asyncio.Event) -> None:
    """Handle the events of the journal until `stop`, then let another worker take over."""
    async with Session(dsn, application_name=APPLICATION) as session:
        transport = kind(session, handler, stop)
        await run_loop(transport, session, stop)
        with suppress(*DATABASE_ERRORS, NotMigrated):
            async with asyncio.timeout(GIVE_UP_SECONDS):
                await transport.give_up()
