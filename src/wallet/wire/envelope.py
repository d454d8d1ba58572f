"""The wire message: one event in its envelope. The relay encodes it, and the worker decodes it strictly.

Encoding does not check an event from the log. Decoding checks everything: a body that is not an event of a known type
and schema version raises one of three typed errors whose message states the problem. It never returns a partial result.
"""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from wallet.domain.events import COMMON_FIELDS, EVENT_TYPES, SCHEMA_VERSION
from wallet.domain.identifiers import BIGINT_MAX, EventId, WalletId, is_id
from wallet.domain.money import AMOUNT_MAX, BALANCE_MAX, ZERO, Value, add

BODY_BYTES_MAX: Final = 256 * 1024
"""More than a hundred times the largest event that we write. A longer body is refused before it is parsed."""
BODY_STORED_BYTES_MAX: Final = 1024 * 1024
"""How many bytes of a body are kept. Of a longer body, only the first ones are."""

_ID_FIELDS: Final = frozenset({"walletId", "requestId", "fromWalletId", "toWalletId"})

# The amount rule of domain.money, but 0 is allowed, and one more digit, because a balance may have it.
_MONEY: Final = re.compile(r"(0|[1-9][0-9]{0,15})(\.[0-9]{1,4})?", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)


class UndecodableMessage(ValueError):
    """The body is not an event of ours; the message states where and why."""


class UnknownSchemaVersion(UndecodableMessage):
    """The event has a schema version this program does not know: a newer program wrote it."""


class UnknownEventType(UndecodableMessage):
    """The event has a type this program does not know: a newer program wrote it."""


class StoredEvent(NamedTuple):
    """An event as it is stored in the log. `payload_json` is the text of its jsonb payload."""

    event_id: UUID
    type: str
    schema_version: int
    occurred_at: datetime
    wallet_id: str
    version: int
    payload_json: str


class Envelope(Value, frozen=True):
    """A decoded event. In the payload `amount` and `newBalance` are Decimal, `transferId` a UUID, the rest text."""

    event_id: EventId
    type: str
    schema_version: int
    occurred_at: datetime
    wallet_id: WalletId
    version: int
    position: int
    payload: dict[str, Any]


class WholeBody(Value, frozen=True):
    """The length and the digest of a body of which only the first BODY_STORED_BYTES_MAX bytes were kept."""

    length: int
    sha256: bytes


class _Message(msgspec.Struct, rename="camel"):
    """The JSON object on the wire, with its fields in this order."""

    id: str
    type: str
    schema_version: int
    occurred_at: str
    wallet_id: str
    version: int
    position: int
    payload: msgspec.Raw


class _Header(msgspec.Struct, rename="camel"):
    """The fields that decide whether this program can decode the rest."""

    type: str
    schema_version: int


_encoder: Final = msgspec.json.Encoder()
_header_decoder: Final = msgspec.json.Decoder(_Header)
_message_decoder: Final = msgspec.json.Decoder(_Message)
_payload_decoder: Final = msgspec.json.Decoder(dict[str, Any])
_payload_fields: Final = {name: (*COMMON_FIELDS, *kind.fields) for name, kind in EVENT_TYPES.items()}


def encode_envelope(event: StoredEvent, position: int) -> bytes:
    """Returns the message body of a stored event. `position` is the position of its batch in the journal."""
    return _encoder.encode(
        _Message(
            str(event.event_id),
            event.type,
            event.schema_version,
            _format_time(event.occurred_at),
            event.wallet_id,
            event.version,
            position,
            msgspec.Raw(event.payload_json.encode()),
        )
    )


def check_length(body_bytes: int) -> None:
    """Raises UndecodableMessage for a body that is longer than an event can be."""
    if body_bytes > BODY_BYTES_MAX:
        raise UndecodableMessage(f"The body has {body_bytes} bytes; an event has at most {BODY_BYTES_MAX}.")


def decode_envelope(body: bytes) -> Envelope:
    """Decode a message body. Raises UndecodableMessage, UnknownSchemaVersion or UnknownEventType."""
    check_length(len(body))
    try:
        message = _message_of(body)
        payload = _payload_decoder.decode(message.payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableMessage(f"The body is not an event: {error}.") from None
    if not is_id(message.wallet_id):
        raise UndecodableMessage(f"walletId is not a wallet id: {message.wallet_id[:200]!r}.")
    return Envelope(
        EventId(_uuid("id", message.id)),
        message.type,
        message.schema_version,
        _time(message.occurred_at),
        WalletId(message.wallet_id),
        _positive("version", message.version),
        _positive("position", message.position),
        _payload(message.type, message.wallet_id, payload),
    )


def _message_of(body: bytes) -> _Message:
    """Returns the fields of the body. A body of a newer program may have other fields, and only then is it parsed twice
    to say so.
    """
    try:
        message = _message_decoder.decode(body)
    except msgspec.ValidationError:
        header = _header_decoder.decode(body)
        expect_known(header.type, header.schema_version)
        raise
    expect_known(message.type, message.schema_version)
    return message


def expect_known(event_type: str, schema_version: int) -> None:
    """Raises UnknownSchemaVersion or UnknownEventType for an event that a newer program wrote."""
    if schema_version != SCHEMA_VERSION:
        raise UnknownSchemaVersion(
            f"schemaVersion is {schema_version}; this program knows {SCHEMA_VERSION}. "
            "Replay the message with a newer program."
        )
    if event_type not in EVENT_TYPES:
        raise UnknownEventType(
            f"type is {event_type[:200]!r}; this program knows {', '.join(EVENT_TYPES)}. "
            "Replay the message with a newer program."
        )


def _payload(event_type: str, wallet_id: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Returns the payload with its fields checked and converted. Fields that a newer program added are not changed."""
    names = _payload_fields[event_type]
    for name in names:
        if not isinstance(payload.get(name), str):
            raise UndecodableMessage(f"payload.{name} of {event_type} is missing or not a string.")
        if name in _ID_FIELDS and not is_id(payload[name]):
            raise UndecodableMessage(f"payload.{name} is not an id: {payload[name][:200]!r}.")
    if payload["walletId"] != wallet_id:
        raise UndecodableMessage(f"payload.walletId {payload['walletId']!r} is not the event's wallet {wallet_id!r}.")
    payload["amount"] = _money("amount", payload["amount"], AMOUNT_MAX)
    payload["newBalance"] = _money("newBalance", payload["newBalance"], BALANCE_MAX)
    if "transferId" in names:
        payload["transferId"] = _uuid("payload.transferId", payload["transferId"])
    return payload


def _money(name: str, token: str, limit: Decimal) -> Decimal:
    if not _MONEY.fullmatch(token):
        raise UndecodableMessage(f"payload.{name} is not a plain decimal with at most 4 decimals: {token[:50]!r}.")
    money = add(Decimal(token), ZERO)
    if money > limit:
        raise UndecodableMessage(f"payload.{name} is {money}; it is at most {limit}.")
    return money


def _uuid(name: str, token: str) -> UUID:
    if not _UUID.fullmatch(token):
        raise UndecodableMessage(f"{name} is not a UUID in its usual spelling: {token[:50]!r}.")
    return msgspec.convert(token, UUID)


def _positive(name: str, number: int) -> int:
    if not 1 <= number <= BIGINT_MAX:
        raise UndecodableMessage(f"{name} is {number}; it counts from 1.")
    return number


def _format_time(time: datetime) -> str:
    assert time.utcoffset() is not None, "an event's time without its zone"
    return f"{time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _time(token: str) -> datetime:
    try:
        if _TIME.fullmatch(token):
            return datetime.fromisoformat(token)
    except ValueError:
        pass
    raise UndecodableMessage(f"occurredAt is not an RFC 3339 time in UTC: {token[:50]!r}.")
