"""Reads the journal for the embedded transport: published batches after a position, in pieces of bounded size.

A piece holds at most PIECE_SIZE_MAX events, of one batch or of several. `position` is where the checkpoint may
move once the piece has its effects: the last batch that is whole by then. Pieces of a batch that were handled before
a crash come again, and the inbox knows them; so the checkpoint needs no place inside a batch.

A batch whose events are not all visible yet ends the reading, as does a gap in the positions: both wait.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final

import asyncpg

from wallet.postgres.connections import Connection
from wallet.postgres.statements import load_statements
from wallet.wire.envelope import StoredEvent, UndecodableMessage, encode_envelope, expect_known
from wallet.worker.messages import Checked, Refused, logged_event_of, refusal_of

PIECE_SIZE_MAX: Final = 200
BATCHES_READ_MAX: Final = 500
EVENTS_READ_MAX: Final = 2_000
"""How many events are read at once, unless a single batch has more."""
PASSED_MAX: Final = 5_000
"""How many batches are passed over at once: a few milliseconds of an index scan."""

_STATEMENTS = load_statements("wallet.worker", "worker.sql")
_READ_JOURNAL: Final[str] = _STATEMENTS.read_journal
_READ_BATCHES: Final[str] = _STATEMENTS.read_batches
_PASS_BY_BROKER: Final[str] = _STATEMENTS.pass_by_broker


@dataclass(frozen=True, slots=True)
class JournalMessage:
    """A row of the log as a message, so that both transports share the handlers; its body exists only if asked for."""

    row: "asyncpg.Record"
    headers: dict[str, Any] = field(default_factory=dict)
    whole: None = None

    @property
    def message_id(self) -> str:
        """The event id."""
        return str(self.row["event_id"])

    @property
    def type(self) -> str:
        """The event type."""
        return str(self.row["type"])

    @property
    def body(self) -> bytes:
        """The message that RabbitMQ would bring; a dead letter keeps it."""
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
    """Messages to handle together, and where the checkpoint moves with their effects."""

    messages: list[JournalMessage]
    position: int


@dataclass(frozen=True, slots=True)
class Passed:
    """A position up to which batches that a broker confirmed were passed over, and whether one follows that was not."""

    position: int
    has_unconfirmed: bool


async def pass_by_broker(connection: Connection, position: int) -> Passed:
    """Pass over the batches after a position that a broker confirmed: the queue brings them. One round trip."""
    row = await connection.fetchrow(_PASS_BY_BROKER, position, PASSED_MAX)
    assert row is not None
    return Passed(row["position"], row["has_unconfirmed"])


async def read_pieces(connection: Connection, position: int, *, with_confirmed: bool = True) -> list[Piece]:
    """The next pieces after a position, in order; none if there is nothing to read. At most two round trips.

    Without `with_confirmed` a batch that a broker confirmed ends the reading.
    """
    rows = await connection.fetch(_READ_JOURNAL, position, BATCHES_READ_MAX)
    if not with_confirmed:
        rows = list(takewhile(lambda row: not row["is_confirmed"], rows))
    batches = _bounded(rows, position)
    if not batches:
        return []
    events = await connection.fetch(
        _READ_BATCHES, [batch["batch_id"] for batch in batches], [batch["position"] for batch in batches]
    )
    until = _last_whole(batches, events, position)
    if until == position:
        return []
    return _cut([event for event in events if event["position"] <= until], until)


def _bounded(batches: Sequence["asyncpg.Record"], position: int) -> list["asyncpg.Record"]:
    """The batches up to the first gap or the limit of events, and at least one if the first is there."""
    bounded: list[asyncpg.Record] = []
    count = 0
    for expected, batch in enumerate(batches, start=position + 1):
        count += batch["event_count"]
        if batch["position"] != expected or (bounded and count > EVENTS_READ_MAX):
            break
        bounded.append(batch)
    return bounded


def _last_whole(batches: Sequence["asyncpg.Record"], events: Sequence["asyncpg.Record"], position: int) -> int:
    """The position of the last batch before the first that lacks events; the given one if that is the first."""
    visible: dict[int, int] = {}
    for event in events:
        visible[event["position"]] = visible.get(event["position"], 0) + 1
    for batch in batches:
        if visible.get(batch["position"], 0) < batch["event_count"]:
            break
        position = batch["position"]
    return position


def _cut(events: Sequence["asyncpg.Record"], until: int) -> list[Piece]:
    if not events:
        return [Piece([], until)]
    pieces: list[Piece] = []
    for start in range(0, len(events), PIECE_SIZE_MAX):
        end = start + PIECE_SIZE_MAX
        # Positions have no gap, so every batch before that of the next event is whole.
        position = events[end]["position"] - 1 if end < len(events) else until
        pieces.append(Piece([JournalMessage(event) for event in events[start:end]], position))
    return pieces


async def check_rows(
    _connection: Connection, messages: Sequence[JournalMessage]
) -> tuple[list[Checked[JournalMessage]], list[Refused[JournalMessage]]]:
    """Sort out events that a newer program wrote. Rows need no comparison with the log: they are the log."""
    checked: list[Checked[JournalMessage]] = []
    refused: list[Refused[JournalMessage]] = []
    for message in messages:
        try:
            expect_known(message.row["type"], message.row["schema_version"])
        except UndecodableMessage as error:
            refused.append(refusal_of(message, error))
        else:
            checked.append(Checked(message, logged_event_of(message.row)))
    return checked, refused
