"""One letter with all that is known: its message and history, the event in the log, what a replay would do."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from wallet.dead_letters.letters import Letter, LetterId, StoredMessage, read_letter, read_message
from wallet.dead_letters.replay import WaitingEvent, find_waiting_event
from wallet.domain.identifiers import bucket_of
from wallet.postgres.connections import Connection
from wallet.postgres.statements import load_statements
from wallet.wire.envelope import BODY_BYTES_MAX, StoredEvent, encode_envelope
from wallet.worker.messages import check_messages

ABSENT: Final = "(absent)"


class NotComparable(ValueError):
    """The body is not a JSON object."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A field, by its path, in which message and log differ; the values as JSON, or ABSENT."""

    path: str
    in_message: str
    in_log: str


def differences(message: bytes, logged: bytes) -> list[Difference]:
    """The fields that differ, those of the log first, in its order. Raises NotComparable."""
    in_message, in_log = _fields(message), _fields(logged)
    return [
        Difference(path, in_message.get(path, ABSENT), in_log.get(path, ABSENT))
        for path in {**in_log, **in_message}
        if in_message.get(path) != in_log.get(path)
    ]


def _fields(body: bytes) -> dict[str, str]:
    try:
        # Numbers stay text: those of a message may have more digits than Python converts.
        parsed = json.loads(body, parse_float=_Number, parse_int=_Number, parse_constant=_Number)
        if isinstance(parsed, dict):
            return dict(_flattened(parsed, ""))
    except (ValueError, RecursionError):
        pass
    raise NotComparable(NotComparable.__doc__)


class _Number(str):
    """A number as it was written."""

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
    """`logged` is the event as the relay would publish it now, or None where the log has none that is named so.

    `differences` is None where there is nothing to compare, `refusal` what a replay by this program would fail with
    before any handler ran.
    """

    letter: Letter
    message: StoredMessage
    logged: bytes | None
    differences: list[Difference] | None
    refusal: str | None
    waiting_event: WaitingEvent | None
    """The event with the letter's event id, where it is in the log and has had no effect."""

    @property
    def is_cut(self) -> bool:
        """Whether the body is longer than what was read of it."""
        return self.letter.body_bytes > len(self.message.body)


async def read_details(connection: Connection, letter_id: LetterId) -> Details:
    """All about one letter, and of a body that is too long for an event the beginning. Raises NoSuchLetter."""
    letter = await read_letter(connection, letter_id)
    message = await read_message(connection, letter_id, body_bytes_max=BODY_BYTES_MAX)
    logged = await _read_logged(connection, letter)
    waiting = await find_waiting_event(connection, letter)
    if letter.body_bytes > BODY_BYTES_MAX:
        too_long = f"The body has {letter.body_bytes} bytes; an event has at most {BODY_BYTES_MAX}."
        return Details(letter, message, logged, None, too_long, waiting)
    _, refused = await check_messages(connection, [message])
    refusal = refused[0].error if refused else None
    return Details(letter, message, logged, _compared(message.body, logged), refusal, waiting)


async def _read_logged(connection: Connection, letter: Letter) -> bytes | None:
    """The event at the wallet and version that the message names, else the one of the wallet with its id."""
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
