"""From messages to events: decodes each body, then compares it with the event log.

A message only names its event; the effects come from the row in the log, as the log is the truth. So a message
that was forged or damaged can't move a total: it names an event that is not there, or not like that, and is refused.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import asyncpg
import structlog

from wallet.domain.analytics import LoggedEvent
from wallet.domain.identifiers import EventId, WalletId, bucket_of
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
    """What the worker needs of a message, whichever transport brought it."""

    @property
    def body(self) -> bytes:
        """The envelope, or whatever else was sent."""

    @property
    def message_id(self) -> str | None:
        """The event id, as the transport carries it beside the body."""

    @property
    def type(self) -> str | None:
        """The event type, as the transport carries it beside the body."""

    @property
    def headers(self) -> Mapping[str, Any]:
        """What else the transport carries beside the body."""

    @property
    def whole(self) -> WholeBody | None:
        """The whole body's length and digest where `body` is only its beginning."""


AnyMessage = TypeVar("AnyMessage", bound=ReceivedMessage)


@dataclass(frozen=True, slots=True)
class Checked(Generic[AnyMessage]):
    """A message and its event in the log."""

    message: AnyMessage
    event: LoggedEvent


@dataclass(frozen=True, slots=True)
class RefusedMessage(Generic[AnyMessage]):
    """A message that had no effect: why, and after how many attempts.

    `is_parked`: neither it nor we are at fault; a newer program wrote it, and one here will know it.
    """

    message: AnyMessage
    error: str
    attempts: int = 1
    is_parked: bool = False


Check = Callable[
    [Connection, Sequence[AnyMessage]],
    Awaitable[tuple[list[Checked[AnyMessage]], list[RefusedMessage[AnyMessage]]]],
]
"""How a transport sorts its messages into those with an event in the log and those at fault."""


async def check_messages(
    connection: Connection, messages: Sequence[AnyMessage]
) -> tuple[list[Checked[AnyMessage]], list[RefusedMessage[AnyMessage]]]:
    """Sort messages into those with an event in the log and those at fault. At most one round trip."""
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
    except Exception as error:  # noqa: BLE001 - Decoding is pure, so our bug in it is this one message's alone.
        _log.exception("decoding_failed", message_id=message.message_id)
        return RefusedMessage(message, f"{type(error).__name__}: {error}")


def refusal_of(message: AnyMessage, error: UndecodableMessage) -> RefusedMessage[AnyMessage]:
    """A message that could not be decoded; one of a newer program is parked until a program here knows it."""
    is_parked = isinstance(error, UnknownSchemaVersion | UnknownEventType)
    return RefusedMessage(message, f"{type(error).__name__}: {error}", is_parked=is_parked)


async def _read_rows(connection: Connection, envelopes: Iterable[Envelope]) -> dict[tuple[str, int], "asyncpg.Record"]:
    keys = sorted({(bucket_of(envelope.wallet_id), envelope.wallet_id, envelope.version) for envelope in envelopes})
    rows = await connection.fetch(
        _SQL.read_events,
        [bucket for bucket, _, _ in keys],
        [wallet_id for _, wallet_id, _ in keys],
        [version for _, _, version in keys],
    )
    return {(row["wallet_id"], row["version"]): row for row in rows}


def _find(envelope: Envelope, rows: Mapping[tuple[str, int], "asyncpg.Record"]) -> LoggedEvent | str:
    """The event a message names, or why the log does not have it."""
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


def logged_event_of(row: "asyncpg.Record") -> LoggedEvent:
    """The event of a row of the log."""
    to_wallet_id = row["to_wallet_id"]
    return LoggedEvent(
        EventId(row["event_id"]),
        WalletId(row["wallet_id"]),
        row["type"],
        row["amount"],
        row["occurred_at"],
        None if to_wallet_id is None else WalletId(to_wallet_id),
    )
