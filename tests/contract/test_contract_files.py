"""The files in contracts/ are what the code makes, and the golden examples are read for ever."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from wallet.cli.commands.contracts import contract_files, write_contracts
from wallet.domain.events import EVENT_TYPES, SCHEMA_VERSION
from wallet.domain.money import format_money
from wallet.wire.envelope import decode_envelope
from wallet.wire.schemas import event_schemas

ROOT = Path(__file__).parents[2]
CONTRACTS = ROOT / "contracts"
EXAMPLES = CONTRACTS / "events" / "examples"
CURE = "run ./wallet contracts, check the difference, and commit it if other teams may see it"

# The messages of a log written years ago look like these. Add a line for a new type or schema version; never change
# one: a program that no longer reads an example no longer reads the log.
GOLDEN = {
    "FundsDeposited.v1.json": "2d429290988c506ef957c9fea8f834dcf3fd48ee057a18810a1b21950990b52b",
    "FundsWithdrawn.v1.json": "93b4554b66990f38cbcaa05b663e63e67017cdcff26a25a8e349f649bde201c1",
    "TransferCompensated.v1.json": "b19b93f6c4502dc09c641143cd8eb5ee2bc54a8d5c6d7c221cfa4c32688de51d",
    "TransferCompleted.v1.json": "e0b6d21407e6c40d16d9c667ca2e1b988f6433751877cd03404f48a9307186e6",
    "TransferCredited.v1.json": "40f35d715b4e08d8edf76e937dd0874bfc9e6a96f62b34b31ee8949ad73504da",
    "TransferDebited.v1.json": "64fd98b56369e3e9f885b466afa39a8a745f020d4ea41c6b2aa3d1cb5a54f8df",
    "TransferFailed.v1.json": "c1563f94aa8bb03815983986622dd990b6f3bfe17218d849fe8b6bafcde38016",
    "TransferInitiated.v1.json": "9acf2a3a338d5bb73be98011e6f1de18ef37ee0d5cf24115efb00f49e0215b62",
    "WalletCreated.v1.json": "f8783bf602de87dafe036361099a3939ba3975e380014880b21ac25cda2acccf",
}


def example(name: str) -> dict[str, Any]:
    message: dict[str, Any] = json.loads((EXAMPLES / name).read_bytes())
    return message


def faults_of(schema: dict[str, Any], message: object) -> list[str]:
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    return [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(message)]


@pytest.mark.parametrize("name", contract_files())
def test_a_contract_is_the_file_that_the_code_makes(name: str) -> None:
    path = CONTRACTS / name
    assert path.exists(), CURE
    assert path.read_text(encoding="utf-8") == contract_files()[name], CURE


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1"])
def test_the_command_prints_the_contract_to_the_byte(encoding: str) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-P", "-m", "wallet", "openapi"]
    printed = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True).stdout
    assert printed == (CONTRACTS / "openapi.json").read_bytes()


def test_there_is_no_contract_that_the_code_does_not_make() -> None:
    found = {path.relative_to(CONTRACTS).as_posix() for path in CONTRACTS.rglob("*") if path.is_file()}
    examples = {f"events/examples/{name}" for name in GOLDEN}
    # A schema of an earlier version stays as a file when the code moves on: its messages are still in the log.
    earlier = {name for name in found if name.endswith(".schema.json") and f".v{SCHEMA_VERSION}." not in name}
    assert found - earlier == set(contract_files()) | examples


def test_the_command_writes_what_differs_and_says_so(tmp_path: Path) -> None:
    everything = [tmp_path / name for name in contract_files()]
    assert write_contracts(tmp_path) == everything
    assert write_contracts(tmp_path) == []
    everything[0].write_text("{}")
    assert write_contracts(tmp_path) == everything[:1]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_example_never_changes(name: str) -> None:
    assert sha256((EXAMPLES / name).read_bytes()).hexdigest() == GOLDEN[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_example_is_decoded_to_the_last_field(name: str) -> None:
    message = example(name)
    envelope = decode_envelope((EXAMPLES / name).read_bytes())
    assert f"{envelope.type}.v{envelope.schema_version}.json" == name
    assert (str(envelope.event_id), envelope.wallet_id) == (message["id"], message["walletId"])
    assert (envelope.version, envelope.position) == (message["version"], message["position"])
    assert envelope.occurred_at.isoformat(timespec="microseconds") == message["occurredAt"].replace("Z", "+00:00")
    money = {field: format_money(envelope.payload[field]) for field in ("amount", "newBalance")}
    assert {field: str(value) for field, value in (envelope.payload | money).items()} == message["payload"]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_example_fits_the_schema_of_its_version(name: str) -> None:
    schema = CONTRACTS / "events" / name.replace(".json", ".schema.json")
    assert faults_of(json.loads(schema.read_bytes()), example(name)) == []


def test_every_event_type_has_a_golden_example_of_todays_version() -> None:
    assert {f"{event_type}.v{SCHEMA_VERSION}.json" for event_type in EVENT_TYPES} <= GOLDEN.keys()


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_a_schema_is_itself_valid_and_says_what_each_field_means(event_type: str) -> None:
    schema = event_schemas()[event_type]
    jsonschema_rs.meta.validate(schema)
    payload = schema["properties"]["payload"]
    described = [*schema["properties"].items(), *payload["properties"].items()]
    assert [name for name, field in described if name != "payload" and not field["description"]] == []
    assert schema["required"] == list(schema["properties"])
    assert payload["required"] == list(payload["properties"])


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("id", "0199A3C5-E802-7B3A-9F1E-5A2C4D6E8F02"),
        ("type", "FundsWithdrawn"),
        ("schemaVersion", 2),
        ("occurredAt", "2026-03-01T12:00:00Z"),
        ("occurredAt", "2026-03-01T12:00:00.000042+01:00"),
        ("occurredAt", "2026-02-30T12:00:00.000042Z"),
        ("walletId", "no/slash"),
        ("version", 0),
        ("position", 2**63),
        ("position", "1"),
        ("payload.amount", 250.5),
        ("payload.amount", "250.5"),
        ("payload.amount", "0.0000"),
        ("payload.amount", "-1.0000"),
        ("payload.amount", "1000000000000000.0000"),
        ("payload.newBalance", "10000000000000000.0000"),
        ("payload.newBalance", "01.0000"),
        ("payload.requestId", ""),
        ("payload.requestId", None),
        ("payload.requestId", "x" * 129),
    ],
)
def test_a_schema_refuses_what_is_not_such_an_event(place: str, value: object) -> None:
    message = example("FundsDeposited.v1.json")
    *parents, field = place.split(".")
    (message["payload"] if parents else message)[field] = value
    assert faults_of(event_schemas()["FundsDeposited"], message) != []
