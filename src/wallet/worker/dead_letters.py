"""Stores messages that had no effect: the message and its error in dead_letters, its event as failed in the inbox.

The rows are committed before the transport releases the message, so the message is always stored somewhere. After a
crash in between, the message is delivered again: its row is found by the sha256 of the body, and only the attempts are
counted. If the dead letter was closed in the meantime, it is opened again. A message of a newer program is parked:
nothing is at fault, so the inbox gets no row for its event. A failed inbox row does not block its event: a replay, or
the true event after a forged one, takes effect as if it were new.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog

from wallet.domain.identifiers import BIGINT_MAX, EventId, WalletId, bucket_of, is_id
from wallet.postgres.connections import Connection
from wallet.postgres.statements import load_statements
from wallet.wire.envelope import BODY_BYTES_MAX, BODY_STORED_BYTES_MAX
from wallet.worker.effects import in_transaction
from wallet.worker.messages import ReceivedMessage, RefusedMessage

ERROR_CHARACTERS_MAX: Final = 2_000
TYPE_CHARACTERS_MAX: Final = 200

_SQL: Final = load_statements("wallet.worker", "worker.sql")

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Named:
    """The fields of a message, as far as they can be read; none of them is trusted."""

    event_id: EventId | None
    type: str | None
    wallet_id: WalletId | None
    version: int | None


class _Header(msgspec.Struct, rename="camel"):
    id: Any = None
    type: Any = None
    wallet_id: Any = None
    version: Any = None
    payload: Any = None


_header_decoder: Final = msgspec.json.Decoder(_Header)


async def keep(connection: Connection, refused: Sequence[RefusedMessage[Any]]) -> None:
    """Commit a dead letter for each message, sorted so that workers keeping the same ones do not deadlock."""
    if not refused:
        return
    ordered = sorted(((_digest(letter.message), letter) for letter in refused), key=lambda pair: pair[0])
    named = [_read_header(letter.message) for _, letter in ordered]

    async def insert() -> None:
        for (digest, letter), name in zip(ordered, named, strict=True):
            await _insert_dead_letter(connection, digest, letter, name)
        await _mark_failed(connection, [(name, letter) for (_, letter), name in zip(ordered, named, strict=True)])

    await in_transaction(connection, insert)
    for (_, letter), name in zip(ordered, named, strict=True):
        _log.error(
            "dead_letter",
            event_id=str(name.event_id) if name.event_id else None,
            message_id=letter.message.message_id,
            kind=_kind(letter),
            wallet_id=name.wallet_id,
            error=_storable(letter.error),
            attempts=letter.attempts,
        )


async def _insert_dead_letter(connection: Connection, digest: bytes, letter: RefusedMessage[Any], name: _Named) -> None:
    await connection.execute(
        _SQL.insert_dead_letter,
        name.event_id,
        name.type,
        name.wallet_id,
        name.version,
        letter.message.body[:BODY_STORED_BYTES_MAX],
        digest,
        _properties_json(letter.message),
        _kind(letter),
        _storable(letter.error),
        letter.attempts,
        _length(letter.message),
    )


async def _mark_failed(connection: Connection, letters: Sequence[tuple[_Named, RefusedMessage[Any]]]) -> None:
    """Mark as failed in the inbox the events whose messages contain a valid wallet id and event id."""
    failed = {
        (bucket_of(name.wallet_id), name.event_id): letter
        for name, letter in letters
        if name.wallet_id is not None and name.event_id is not None and not letter.is_parked
    }
    keys = sorted(failed)
    if keys:
        await connection.execute(
            _SQL.mark_failed,
            [bucket for bucket, _ in keys],
            [event_id for _, event_id in keys],
            [_storable(failed[key].error) for key in keys],
            [failed[key].attempts for key in keys],
        )


def _digest(message: ReceivedMessage) -> bytes:
    return sha256(message.body).digest() if message.whole is None else message.whole.sha256


def _length(message: ReceivedMessage) -> int:
    return len(message.body) if message.whole is None else message.whole.length


def _kind(letter: RefusedMessage[Any]) -> str:
    return "parked" if letter.is_parked else "failed"


def _read_header(message: ReceivedMessage) -> _Named:
    header = _Header()
    if _length(message) <= BODY_BYTES_MAX:
        try:
            header = _header_decoder.decode(message.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            header = _Header()
    payload = header.payload if isinstance(header.payload, dict) else {}
    wallet_id, version = header.wallet_id or payload.get("walletId"), header.version
    event_type = header.type if isinstance(header.type, str) else message.type
    return _Named(
        _event_id(header.id) or _event_id(message.message_id),
        _storable(event_type)[:TYPE_CHARACTERS_MAX] if isinstance(event_type, str) else None,
        WalletId(wallet_id) if isinstance(wallet_id, str) and is_id(wallet_id) else None,
        version if isinstance(version, int) and not isinstance(version, bool) and 0 < version <= BIGINT_MAX else None,
    )


def _event_id(text: object) -> EventId | None:
    try:
        return EventId(UUID(text)) if isinstance(text, str) else None
    except ValueError:
        return None


def _properties_json(message: ReceivedMessage) -> str:
    """Returns the message's properties and headers as JSON; values that JSON can't represent are stored as text."""
    properties = {"messageId": message.message_id, "type": message.type, "headers": dict(message.headers)}
    return json.dumps(_storable(properties), default=str)


def _storable(value: Any) -> Any:
    """Returns the value without what PostgreSQL refuses in text and jsonb (NUL, lone surrogates, NaN); long texts are
    cut.
    """
    match value:
        case str():
            text = value[:ERROR_CHARACTERS_MAX].encode(errors="replace").decode()
            return text.replace("\x00", "�")
        case bool() | int() | None:
            return value
        case dict():
            return {_storable(str(key)): _storable(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_storable(inner) for inner in value]
        case _:
            return _storable(str(value))
