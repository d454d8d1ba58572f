"""The JSON Schema of each event's wire message: the contract for other teams that consume the exchange.

The schemas are derived from the declarations of the events, which the decoder uses too. A field may be added without a
new schema version, so readers must ignore unknown fields. Removing a field, or changing its meaning, needs a new schema
version.
"""

from typing import Any, Final

from wallet.domain.events import COMMON_FIELDS, EVENT_TYPES, SCHEMA_VERSION, WalletCreated
from wallet.domain.identifiers import BIGINT_MAX, ID_PATTERN

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

MEANINGS: Final = {name: str(kind.__doc__) for name, kind in EVENT_TYPES.items()}
"""The sentence that describes each event type."""

_ID: Final = {"type": "string", "pattern": f"^{ID_PATTERN}$"}
_UUID: Final = {
    "type": "string",
    "format": "uuid",
    "pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
}
_COUNT: Final = {"type": "integer", "minimum": 1, "maximum": BIGINT_MAX}
_TIME: Final = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$",
}
_NO_MONEY: Final = "0.0000"

_ENVELOPE: Final[dict[str, dict[str, Any]]] = {
    "id": {**_UUID, "description": "The event's id, also the message_id. The same id is the same event: drop repeats."},
    "type": {"description": "What happened; also the message's type and routing key."},
    "schemaVersion": {"description": "Which shape the payload has."},
    "occurredAt": {**_TIME, "description": "When it was decided; strictly increasing within a wallet."},
    "walletId": {**_ID, "description": "The wallet whose sequence contains the event."},
    "version": {**_COUNT, "description": "Its place in that sequence: 1, 2, 3 …; the only order to rely on."},
    "position": {**_COUNT, "description": "The place of its commit in the journal; events of one commit share it."},
}
_PAYLOAD: Final[dict[str, dict[str, Any]]] = {
    "walletId": {**_ID, "description": "The wallet again."},
    "amount": {
        "type": "string",
        "pattern": r"^(0|[1-9][0-9]{0,14})\.[0-9]{4}$",
        "not": {"const": _NO_MONEY},
        "description": "The amount of the event, as a decimal. Do not parse it as a float.",
    },
    "newBalance": {
        "type": "string",
        "pattern": r"^(0|[1-9][0-9]{0,15})\.[0-9]{4}$",
        "description": "The wallet's balance right after the event.",
    },
    "requestId": {**_ID, "description": "The idempotency key of the request that caused it."},
    "transferId": {**_UUID, "description": "The transfer it belongs to."},
    "fromWalletId": {**_ID, "description": "The sender."},
    "toWalletId": {**_ID, "description": "The receiver."},
    "currency": {"type": "string", "minLength": 1, "description": "The currency of the amount."},
    "reason": {"type": "string", "description": "Why the receiver refused the money: a sentence, to be shown only."},
}


def event_schemas() -> dict[str, dict[str, Any]]:
    """Returns the JSON Schema of the message of each event type, at the current schema version."""
    return {event_type: _message(event_type, MEANINGS[event_type]) for event_type in EVENT_TYPES}


def _message(event_type: str, meaning: str) -> dict[str, Any]:
    properties = {name: dict(schema) for name, schema in _ENVELOPE.items()}
    properties["type"]["const"] = event_type
    properties["schemaVersion"]["const"] = SCHEMA_VERSION
    properties["payload"] = payload_schema(event_type)
    return {
        "$schema": DIALECT,
        "$id": f"urn:wallet:event:{event_type}:{SCHEMA_VERSION}",
        "title": event_type,
        "description": meaning,
        "type": "object",
        "required": list(properties),
        "properties": properties,
    }


def payload_schema(event_type: str) -> dict[str, Any]:
    """Returns the JSON Schema of the payload of an event type."""
    kind = EVENT_TYPES[event_type]
    names = (*COMMON_FIELDS, *kind.fields)
    properties = {name: dict(_PAYLOAD[name]) for name in names}
    if kind is WalletCreated:
        properties["amount"] = {"const": _NO_MONEY, "description": "No money moves when a wallet is created."}
    return {"type": "object", "required": list(names), "properties": properties}
