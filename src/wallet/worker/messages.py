"""Turns messages into events: decodes each body, then compares it with the event log.

A message only names its event; the effects are computed from the row in the log, which is the source of truth. So a
forged or damaged message can't change a total: it names an event that does not exist, or that differs, and is refused.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog
from asyncpg import Record

from wallet.domain.analytics import LoggedEvent
from wallet.domain.identifiers import EventId, WalletId, bucket_of
from wallet.domain.money import Value
from wallet.postgres.connections import Connection
from wallet.postgres.statements import load_statements
from wallet.wire.envelope import (
    Envelope,
    UndecodableMessage,
    UnknownEventType,
    UnknownSchemaVersion,
    WholeBody,
    check_length,
    decode_envelope,
)

_SQL: Final = load_statements("wallet.worker", "worker.sql")

_log = structlog.get_logger()


class ReceivedMessage(Protocol):
    """What the worker needs from a message, independent of the transport."""

    @property
    def body(self) -> bytes:
        """Returns the envelope, or any other bytes that were sent."""

    @property
    def message_id(self) -> str | None:
        """Returns the event id, as the transport carries it outside the body."""

    @property
    def type(self) -> str | None:
        """Returns the event type, as the transport carries it outside the body."""

    @property
    def headers(self) -> Mapping[str, Any]:
        """Returns the other fields that the transport carries outside the body."""

    @property
    def whole(self) -> WholeBody | None:
        """Returns the whole body's length and digest if `body` is only its beginning."""


AnyMessage = TypeVar("AnyMessage", bound=ReceivedMessage)


class Checked(Value, Generic[AnyMessage], frozen=True):
    """A message and its event in the log."""

    message: AnyMessage
    event: LoggedEvent


@dataclass(frozen=True, slots=True)
class RefusedMessage(Generic[AnyMessage]):
    """A message that had no effect, with the reason and the number of attempts.

    `is_parked`: neither the message nor this program is at fault; a newer program wrote it, and a later version of this
    one will understand it.
    """

    message: AnyMessage
    error: str
    attempts: int = 1
    is_parked: bool = False


CheckMessages = Callable[
    [Connection, Sequence[AnyMessage]],
    Awaitable[tuple[list[Checked[AnyMessage]], list[RefusedMessage[AnyMessage]]]],
]
"""The function with which a transport separates messages whose event is in the log from messages at fault."""


async def check_messages(
    connection: Connection, messages: Sequence[AnyMessage]
) -> tuple[list[Checked[AnyMessage]], list[RefusedMessage[AnyMessage]]]:
    """Separate the messages whose event is in the log from those at fault. At most one round trip."""
    decoded: list[tuple[AnyMessage, Envelope]] = []
    refused: list[RefusedMessage[AnyMessage]] = []
    for message in messages:
        envelope = _decode(message)
        if isinstance(envelope, Envelope):
            decoded.append((message, envelope))
        else:
            refused.append(envelope)
    rows = await _read_rows(connection, [envelope for _, envelope in decoded]) if decoded else {}
    checked: list[Checked[AnyMessage]] = []
    for message, envelope in decoded:
        event = _find(envelope, rows)
        if isinstance(event, LoggedEvent):
            checked.append(Checked(message, event))
        else:
            refused.append(RefusedMessage(message, event))
    return checked, refused


def _decode(message: AnyMessage) -> Envelope | RefusedMessage[AnyMessage]:
    try:
        if message.whole is not None:
            check_length(message.whole.length)
        return decode_envelope(message.body)
    except UndecodableMessage as error:
        return refusal_of(message, error)
    except Exception as error:  # noqa: BLE001 - Decoding is pure, so a bug in it affects only this message.
        _log.exception("decoding_failed", message_id=message.message_id)
        return RefusedMessage(message, f"{type(error).__name__}: {error}")


def refusal_of(message: AnyMessage, error: UndecodableMessage) -> RefusedMessage[AnyMessage]:
    """Returns the refusal of a message that could not be decoded; one of a newer program is parked."""
    is_parked = isinstance(error, UnknownSchemaVersion | UnknownEventType)
    return RefusedMessage(message, f"{type(error).__name__}: {error}", is_parked=is_parked)


async def _read_rows(connection: Connection, envelopes: Iterable[Envelope]) -> dict[tuple[str, int], Record]:
    keys = sorted({(bucket_of(envelope.wallet_id), envelope.wallet_id, envelope.version) for envelope in envelopes})
    rows = await connection.fetch(
        _SQL.read_events,
        [bucket for bucket, _, _ in keys],
        [wallet_id for _, wallet_id, _ in keys],
        [version for _, _, version in keys],
    )
    return {(row["wallet_id"], row["version"]): row for row in rows}


def _find(envelope: Envelope, rows: Mapping[tuple[str, int], Record]) -> LoggedEvent | str:
    """Returns the event that a message names, or the reason why the log does not have it."""
    row = rows.get((envelope.wallet_id, envelope.version))
    if row is None:
        return (
            f"NotInTheLog: the event log has no version {envelope.version} of wallet {envelope.wallet_id}, "
            f"which the message calls event {envelope.event_id}."
        )
    said = (envelope.event_id, envelope.type, envelope.schema_version)
    logged = (row["event_id"], row["type"], row["schema_version"])
    if said != logged:
        return (
            f"NotInTheLog: version {envelope.version} of wallet {envelope.wallet_id} is event {logged[0]}, "
            f"{logged[1]} with schemaVersion {logged[2]}; the message says {said[0]}, {said[1]} with {said[2]}."
        )
    return logged_event_of(row)


def logged_event_of(row: Record) -> LoggedEvent:
    """Returns the event of a row of the log."""
    to_wallet_id = row["to_wallet_id"]
    return LoggedEvent(
        EventId(row["event_id"]),
        WalletId(row["wallet_id"]),
        row["type"],
        row["amount"],
        row["occurred_at"],
        None if to_wallet_id is None else WalletId(to_wallet_id),
    )
