"""What the ledger decides and the relay publishes fits the schemas that other teams build on."""

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema_rs

from tests.support.api import running_api
from tests.support.broker import take_all
from tests.support.database import connected
from tests.support.ledger import deposit, running_ledger, send, transfer, withdraw
from tests.support.relay import count_where, relay_settings, running_relay
from tests.support.waiting import eventually
from wallet.api.app import ROUTES
from wallet.api.contract.openapi import document
from wallet.domain.events import EVENT_TYPES
from wallet.domain.money import AMOUNT_MAX, BALANCE_MAX
from wallet.ledger.ledger import Ledger
from wallet.rabbitmq.topology import WORKER_QUEUE
from wallet.wire.schemas import event_schemas

EXAMPLES = Path(__file__).parents[2] / "contracts" / "events" / "examples"
LONGEST_ID = "w" * 128
ODD_ID = "0-a.b_c:d@e"


async def test_every_type_of_event_is_published_as_its_schema_says(
    database_url: str, rabbitmq_url: str, tmp_path: Path
) -> None:
    async with running_ledger(database_url, is_stepwise=True) as ledger:
        await cause_every_type_of_event(ledger)
    async with (
        connected(database_url) as connection,
        running_relay(relay_settings(database_url, rabbitmq_url, tmp_path)),
    ):

        async def everything_is_published() -> bool:
            return await count_where(connection, "published_at is null") == 0

        await eventually(everything_is_published, within=30)
    bodies = [body for _, body in await take_all(rabbitmq_url, WORKER_QUEUE)]
    assert {json.loads(body)["type"] for body in bodies} == set(EVENT_TYPES)
    for body in bodies:
        assert_fits_its_schema(body)


async def test_every_type_of_event_is_shown_in_the_history_as_the_document_says(database_url: str) -> None:
    async with running_ledger(database_url, is_stepwise=True) as ledger:
        await cause_every_type_of_event(ledger)
    async with running_api(database_url) as api:
        whole = (await api.get("/openapi.json")).json
        histories = [
            (await api.get(f"/wallet/{wallet_id}/history?limit=200")).json
            for wallet_id in (LONGEST_ID, ODD_ID, "alice", "full", "sender")
        ]
    items = [item for history in histories for item in history]
    validator = history_validator(whole)
    assert [error.message for item in items for error in validator.iter_errors(item)] == []
    assert {item["type"] for item in items} == set(EVENT_TYPES)


def test_the_document_refuses_a_history_item_with_the_payload_of_another_type() -> None:
    validator = history_validator(document(ROUTES))
    message = json.loads((EXAMPLES / "FundsDeposited.v1.json").read_bytes())
    item = {name: message[name] for name in ("id", "walletId", "type", "occurredAt", "payload")} | {"transferId": None}
    assert validator.is_valid(item)
    assert not validator.is_valid(item | {"type": "TransferDebited"})
    assert not validator.is_valid(item | {"type": "Unknown"})
    assert not validator.is_valid(item | {"payload": item["payload"] | {"amount": 250.5}})
    assert not validator.is_valid(item | {"payload": {}})


def history_validator(whole: dict[str, Any]) -> Any:
    """Validates one history item by the document's schema for it."""
    schema = {"$ref": "#/components/schemas/HistoryItem", "components": whole["components"]}
    return jsonschema_rs.validator_for(schema, validate_formats=True)


async def cause_every_type_of_event(ledger: Ledger) -> None:
    """The longest ids, the smallest and the largest money, and a transfer that its receiver refuses."""
    await send(ledger, deposit("alice", "0.0001", ODD_ID))
    await send(ledger, deposit(LONGEST_ID, 1, LONGEST_ID))
    await send(ledger, withdraw(LONGEST_ID, "0.9999"))
    await send(ledger, transfer(LONGEST_ID, ODD_ID, "0.0001"))
    most = str(AMOUNT_MAX)
    room = int(BALANCE_MAX // AMOUNT_MAX)
    await asyncio.gather(*(send(ledger, deposit("full", most)) for _ in range(room)))
    await send(ledger, deposit("sender", most))
    refused = await send(ledger, transfer("sender", "full", most))
    assert refused.status == 409


def assert_fits_its_schema(body: bytes) -> None:
    message = json.loads(body)
    schema = event_schemas()[message["type"]]
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    assert [error.message for error in validator.iter_errors(message)] == [], body
    # Readers ignore fields they do not know, so the schemas are open; but nothing is sent that they do not say.
    assert message.keys() == schema["properties"].keys(), body
    assert message["payload"].keys() == schema["properties"]["payload"]["properties"].keys(), body
