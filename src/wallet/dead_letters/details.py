"""Everything that is known about one dead letter: its message and history, the event in the log, and what a replay
would do.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from wallet.dead_letters.reading import DeadLetter, DeadLetterId, StoredMessage, read_dead_letter, read_message
from wallet.dead_letters.replay import WaitingEvent, find_waiting_event
from wallet.domain.identifiers import bucket_of
from wallet.postgres.connections import Connection
from wallet.postgres.statements import load_statements
from wallet.runtime.errors import ExplainedError
from wallet.wire.envelope import BODY_BYTES_MAX, StoredEvent, encode_envelope
from wallet.worker.messages import check_messages

ABSENT: Final = "(absent)"


class NotComparable(ExplainedError):
    """The body is not a JSON object."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A field, by its path, that differs between message and log, with the two values as JSON, or ABSENT."""

    path: str
    in_message: str
    in_log: str


def differences(message: bytes, logged: bytes) -> list[Difference]:
    """Returns the fields that differ: first those of the log, in its order. Raises NotComparable."""
    in_message, in_log = _fields(message), _fields(logged)
    return [
        Difference(path, in_message.get(path, ABSENT), in_log.get(path, ABSENT))
        for path in {**in_log, **in_message}
        if in_message.get(path) != in_log.get(path)
    ]


def _fields(body: bytes) -> dict[str, str]:
    try:
        # Numbers stay text: the numbers of a message may have more digits than Python converts.
        parsed = json.loads(body, parse_float=_Number, parse_int=_Number, parse_constant=_Number)
        if isinstance(parsed, dict):
            return dict(_flattened(parsed, ""))
    except (ValueError, RecursionError):
        pass
    raise NotComparable


class _Number(str):
    """A number with its original spelling."""

    __slots__ = ()


def _flattened(value: Any, path: str) -> Iterator[tuple[str, str]]:
    match value:
        case dict() if value:
            for name, inner in value.items():
                yield from _flattened(inner, f"{path}.{name}" if path else name)
        case _Number():
            yield path, str(value)
        case _:
            yield path, json.dumps(value, ensure_ascii=False)


_SQL: Final = load_statements("wallet.dead_letters", "dead_letters.sql")


@dataclass(frozen=True, slots=True)
class Details:
    """`logged` is the event as the relay would publish it now, or None if the log has no event with that name.

    `differences` is None if there is nothing to compare. `refusal` is the error with which a replay by this program
    would fail before any handler runs.
    """

    letter: DeadLetter
    message: StoredMessage
    logged: bytes | None
    differences: list[Difference] | None
    refusal: str | None
    waiting_event: WaitingEvent | None
    """The event with the dead letter's event id, if it is in the log and has had no effect."""

    @property
    def is_cut(self) -> bool:
        """Returns whether the body is longer than the part that was read."""
        return self.letter.body_bytes > len(self.message.body)


async def read_details(connection: Connection, dead_letter_id: DeadLetterId) -> Details:
    """Returns everything about one dead letter; of a body that is too long for an event, only the beginning. Raises
    NoSuchDeadLetter.
    """
    letter = await read_dead_letter(connection, dead_letter_id)
    message = await read_message(connection, dead_letter_id, body_bytes_max=BODY_BYTES_MAX)
    logged = await _read_logged(connection, letter)
    waiting = await find_waiting_event(connection, letter)
    if letter.body_bytes > BODY_BYTES_MAX:
        too_long = f"The body has {letter.body_bytes} bytes; an event has at most {BODY_BYTES_MAX}."
        return Details(letter, message, logged, None, too_long, waiting)
    _, refused = await check_messages(connection, [message])
    refusal = refused[0].error if refused else None
    return Details(letter, message, logged, _compared(message.body, logged), refusal, waiting)


async def _read_logged(connection: Connection, letter: DeadLetter) -> bytes | None:
    """Returns the event at the wallet and version that the message names, or else the wallet's event with the message's
    id.
    """
    if letter.wallet_id is None:
        return None
    bucket, row = bucket_of(letter.wallet_id), None
    if letter.version is not None:
        row = await connection.fetchrow(_SQL.read_event_at, bucket, letter.wallet_id, letter.version)
    if row is None and letter.event_id is not None:
        row = await connection.fetchrow(_SQL.read_event_named, bucket, letter.wallet_id, letter.event_id)
    if row is None:
        return None
    *columns, position = row.values()
    return encode_envelope(StoredEvent(*columns), position or 0)


def _compared(body: bytes, logged: bytes | None) -> list[Difference] | None:
    try:
        return None if logged is None else differences(body, logged)
    except NotComparable:
        return None
