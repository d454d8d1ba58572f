"""The schemas of a history item: one for each event type, which the item's `type` tells apart."""

from collections.abc import Mapping
from typing import Any

from wallet.domain.events import EVENT_TYPES
from wallet.wire.schemas import MEANINGS, payload_schema


def history_schemas(item: Mapping[str, Any], reference: str) -> dict[str, Any]:
    """Returns the components that describe a history item; `item` is the schema of what all types have in common.

    `reference` is the template of a reference to a component.
    """
    components: dict[str, Any] = {}
    for event_type in EVENT_TYPES:
        payload = payload_schema(event_type)
        components[_payload_name(event_type)] = payload
        components[_item_name(event_type)] = {
            **item,
            "title": event_type,
            "description": MEANINGS[event_type],
            "properties": {
                **item["properties"],
                "type": {"const": event_type},
                "transferId": _transfer_id(payload),
                "payload": {"$ref": reference.format(name=_payload_name(event_type))},
            },
        }
    references = {event_type: reference.format(name=_item_name(event_type)) for event_type in EVENT_TYPES}
    components["HistoryItem"] = {
        "title": item["title"],
        "description": item["description"],
        "oneOf": [{"$ref": target} for target in references.values()],
        "discriminator": {"propertyName": "type", "mapping": references},
    }
    return components


def _transfer_id(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The item's own `transferId`, which is null for an event of no transfer."""
    nothing = {"type": "null", "description": "Null: the event belongs to no transfer."}
    return dict(payload["properties"].get("transferId", nothing))


def _item_name(event_type: str) -> str:
    return f"{event_type}Item"


def _payload_name(event_type: str) -> str:
    return f"{event_type}Payload"
