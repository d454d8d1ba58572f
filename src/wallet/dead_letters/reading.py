"""Reads dead letters: their fields without the body, and their messages.

A dead letter's state and kind are stored. `open` and `failed`: the message or its handler is at fault. `open` and
`parked`: a newer program wrote the message. `replayed` and `discarded` dead letters are closed, and are opened again if
the message is delivered again and fails.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NewType

from asyncpg import Record

from wallet.domain.identifiers import EventId, WalletId
from wallet.postgres.connections import Connection
from wallet.postgres.session import session
from wallet.postgres.statements import load_statements
from wallet.wire.envelope import BODY_STORED_BYTES_MAX

DeadLetterId = NewType("DeadLetterId", int)

_SQL: Final = load_statements("wallet.dead_letters", "dead_letters.sql")

_WHOLE_BODY: Final = 2**31 - 1
STATEMENT_SECONDS: Final = 60.0
"""A body may have 128 MiB, and no client's request waits for an operator's command."""
LOCK_MS: Final = 10_000
"""A worker locks a dead letter while it stores such a body in it."""


class NoSuchDeadLetter(Exception):
    """No dead letter has this id; `wallet dlq list --all` shows those there are."""


class DeadLetterState(StrEnum):
    """The decision about a dead letter."""

    OPEN = "open"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


class DeadLetterKind(StrEnum):
    """Why a message had no effect: it or its handler failed, or it waits for a program that can read its version."""

    FAILED = "failed"
    PARKED = "parked"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter without its body. Event, type, wallet and version are those that the message states, unchecked."""

    dead_letter_id: DeadLetterId
    state: DeadLetterState
    kind: DeadLetterKind
    type: str | None
    event_id: EventId | None
    wallet_id: WalletId | None
    version: int | None
    error: str
    attempts: int
    actor: str | None
    reason: str | None
    created_at: datetime
    updated_at: datetime
    body_bytes: int
    took_effect_at: datetime | None

    @property
    def is_open(self) -> bool:
        """Returns whether an operator still has to decide about it."""
        return self.state is DeadLetterState.OPEN

    @property
    def is_too_long(self) -> bool:
        """Returns whether its body is so much longer than any event that only the beginning is stored."""
        return self.body_bytes > BODY_STORED_BYTES_MAX


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One entry of a dead letter's history: `opened`, `replayed`, `replay failed` or `discarded`."""

    what: str
    at: datetime
    actor: str | None = None
    reason: str | None = None
    error: str | None = None
    attempts: int | None = None


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """The message of a dead letter as it was delivered, with its properties and headers as far as JSON can represent
    them.

    The handlers read this message, and this message is published again.
    """

    body: bytes
    message_id: str | None
    type: str | None
    headers: Mapping[str, Any]
    history: Sequence[HistoryEntry]
    whole: None = None


def open_database(dsn: str) -> AbstractAsyncContextManager[Connection]:
    """Returns the database session of an operator's command. Raises NotMigrated, or one of DATABASE_ERRORS."""
    return session(dsn, application_name="wallet dlq", lock_ms=LOCK_MS, statement_seconds=STATEMENT_SECONDS)


async def dead_letter_ids(connection: Connection, *, with_closed: bool, limit: int | None = None) -> list[DeadLetterId]:
    """Returns the ids of the dead letters, oldest first."""
    return [DeadLetterId(row["id"]) for row in await connection.fetch(_SQL.dead_letter_ids, with_closed, limit)]


async def count_dead_letters(connection: Connection, *, with_closed: bool) -> int:
    """Returns how many dead letters there are."""
    return int(await connection.fetchval(_SQL.count_dead_letters, with_closed))


async def read_dead_letters(connection: Connection, ids: Collection[DeadLetterId]) -> list[DeadLetter]:
    """Returns the dead letters with these ids, oldest first; ids without a dead letter are ignored."""
    return [_dead_letter(row) for row in await connection.fetch(_SQL.read_dead_letters, list(ids))]


async def read_dead_letter(connection: Connection, dead_letter_id: DeadLetterId) -> DeadLetter:
    """Returns one dead letter. Raises NoSuchDeadLetter."""
    letters = await read_dead_letters(connection, (dead_letter_id,))
    if not letters:
        raise NoSuchDeadLetter(
            f"There is no dead letter {dead_letter_id}. `wallet dlq list --all` shows those there are."
        )
    return letters[0]


async def read_message(
    connection: Connection, dead_letter_id: DeadLetterId, *, body_bytes_max: int = _WHOLE_BODY
) -> StoredMessage:
    """Returns the message of a dead letter, with no more of its body than requested. Raises NoSuchDeadLetter."""
    row = await connection.fetchrow(_SQL.read_message, dead_letter_id, body_bytes_max)
    if row is None:
        raise NoSuchDeadLetter(f"Dead letter {dead_letter_id} was deleted from the table just now.")
    properties = json.loads(row["properties"])
    return StoredMessage(
        row["body"],
        properties["messageId"],
        properties["type"],
        properties["headers"],
        [_history_entry(entry) for entry in json.loads(row["history"])],
    )


def _dead_letter(row: Record) -> DeadLetter:
    return DeadLetter(
        DeadLetterId(row["id"]),
        DeadLetterState(row["state"]),
        DeadLetterKind(row["kind"]),
        row["type"],
        None if row["event_id"] is None else EventId(row["event_id"]),
        None if row["wallet_id"] is None else WalletId(row["wallet_id"]),
        row["version"],
        row["error"],
        row["attempts"],
        row["actor"],
        row["reason"],
        row["created_at"],
        row["updated_at"],
        row["body_bytes"],
        row["took_effect_at"],
    )


def _history_entry(entry: dict[str, Any]) -> HistoryEntry:
    return HistoryEntry(
        entry["what"],
        datetime.fromisoformat(entry["at"]),
        entry.get("actor"),
        entry.get("reason"),
        entry.get("error"),
        entry.get("attempts"),
    )
