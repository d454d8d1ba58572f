"""The wire message: what the relay writes is what the worker reads, and nothing else is."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from wallet.wire.envelope import (
    BODY_BYTES_MAX,
    StoredEvent,
    UndecodableMessage,
    UnknownEventType,
    UnknownSchemaVersion,
    decode_envelope,
    encode_envelope,
)

EVENT_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
TRANSFER_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8058")

DEPOSITED: dict[str, Any] = {
    "id": str(EVENT_ID),
    "type": "FundsDeposited",
    "schemaVersion": 1,
    "occurredAt": "2026-03-01T12:00:00.000042Z",
    "walletId": "alice",
    "version": 2,
    "position": 7,
    "payload": {"walletId": "alice", "amount": "100.0000", "newBalance": "250.5000", "requestId": "r-1"},
}
TRANSFER = {
    "walletId": "alice",
    "amount": "5.0000",
    "newBalance": "0.0000",
    "requestId": "r-2",
    "transferId": str(TRANSFER_ID),
    "fromWalletId": "alice",
    "toWalletId": "bob",
    "currency": "USD",
}


def body(**changes: Any) -> bytes:
    """The deposit's message with some fields changed; None takes one out."""
    fields = DEPOSITED | changes
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def body_with_payload(**changes: Any) -> bytes:
    payload = DEPOSITED["payload"] | changes
    return body(payload={name: value for name, value in payload.items() if value is not None})


def test_a_stored_event_becomes_exactly_this_message() -> None:
    event = StoredEvent(
        EVENT_ID,
        "FundsDeposited",
        1,
        datetime(2026, 3, 1, 12, 0, 0, 42, tzinfo=UTC),
        "alice",
        2,
        json.dumps(DEPOSITED["payload"]),
    )
    encoded = encode_envelope(event, 7)
    assert json.loads(encoded) == DEPOSITED
    assert list(json.loads(encoded)) == list(DEPOSITED)


def test_a_time_keeps_its_six_decimals_when_they_are_zero() -> None:
    event = StoredEvent(EVENT_ID, "FundsDeposited", 1, datetime(2026, 3, 1, tzinfo=UTC), "alice", 2, "{}")
    assert json.loads(encode_envelope(event, 7))["occurredAt"] == "2026-03-01T00:00:00.000000Z"


def test_a_message_is_decoded_into_exact_money_ids_and_time() -> None:
    envelope = decode_envelope(body())
    assert envelope.event_id == EVENT_ID
    assert envelope.occurred_at == datetime(2026, 3, 1, 12, 0, 0, 42, tzinfo=UTC)
    assert (envelope.type, envelope.schema_version) == ("FundsDeposited", 1)
    assert (envelope.wallet_id, envelope.version, envelope.position) == ("alice", 2, 7)
    assert envelope.payload["amount"] == Decimal("100.0000")
    assert str(envelope.payload["newBalance"]) == "250.5000"


def test_a_transfers_payload_names_both_wallets_and_the_transfer() -> None:
    envelope = decode_envelope(body(type="TransferDebited", payload=TRANSFER))
    assert envelope.payload["transferId"] == TRANSFER_ID
    assert (envelope.payload["fromWalletId"], envelope.payload["toWalletId"]) == ("alice", "bob")


def test_fields_that_a_newer_program_adds_are_kept_or_passed_over() -> None:
    envelope = decode_envelope(body(causedBy="x", payload=DEPOSITED["payload"] | {"note": 1}))
    assert envelope.payload["note"] == 1


@pytest.mark.parametrize("amount", ["0", "0.0000", "100000000000000", "1.5"])
def test_an_amount_may_be_zero_and_at_most_ten_to_the_fourteen(amount: str) -> None:
    assert decode_envelope(body_with_payload(amount=amount)).payload["amount"] == Decimal(amount)


def test_the_largest_balance_is_decoded() -> None:
    envelope = decode_envelope(body_with_payload(newBalance="9999999999999999.9999"))
    assert envelope.payload["newBalance"] == Decimal("9999999999999999.9999")


@pytest.mark.parametrize("version", [0, 2, 99])
def test_an_unknown_schema_version_is_distinguished_even_with_an_unknown_shape(version: int) -> None:
    with pytest.raises(UnknownSchemaVersion, match=f"schemaVersion is {version}; this program knows 1"):
        decode_envelope(body(schemaVersion=version, type="NotYetInvented", payload=None, id=None))


def test_an_unknown_type_is_distinguished() -> None:
    with pytest.raises(UnknownEventType, match="type is 'FundsBorrowed'"):
        decode_envelope(body(type="FundsBorrowed"))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "not an event"),
        (b"not json", "not an event"),
        (b"\xff\xfe", "not an event"),
        (b"[]", "not an event"),
        (b"null", "not an event"),
        (b"{}", "missing required field `type`"),
        (b"[" * 100_000, "not an event"),
        (b'{"payload":' + b"[" * 100_000, "not an event"),
        (b" " * (BODY_BYTES_MAX + 1), f"at most {BODY_BYTES_MAX}"),
        (body() + b"x", "not an event"),
        (body(id=None), "missing required field `id`"),
        (body(id="7"), "id is not a UUID"),
        (body(id=str(EVENT_ID).upper()), "id is not a UUID"),
        (body(id=EVENT_ID.hex), "id is not a UUID"),
        (body(type=1), "Expected `str`"),
        (body(schemaVersion="1"), "Expected `int`"),
        (body(schemaVersion=True), "Expected `int`"),
        (body(occurredAt="2026-03-01T12:00:00+01:00"), "occurredAt is not an RFC 3339 time in UTC"),
        (body(occurredAt="2026-02-30T12:00:00Z"), "occurredAt is not an RFC 3339 time in UTC"),
        (body(occurredAt="2026-03-01T12:00:00Z\n"), "occurredAt is not an RFC 3339 time in UTC"),
        (body(walletId="../etc"), "walletId is not a wallet id"),
        (body(walletId="alice\n"), "walletId is not a wallet id"),
        (body(version=0), "version is 0; it counts from 1"),
        (body(version=2**63), "version is 9223372036854775808"),
        (body(version=1.5), "Expected `int`"),
        (body(position=-1), "position is -1"),
        (body(payload=None), "missing required field `payload`"),
        (body(payload=[]), "Expected `object`"),
        (body_with_payload(amount=None), "payload.amount of FundsDeposited is missing"),
        (body_with_payload(amount=1), "payload.amount of FundsDeposited is missing or not a string"),
        (body_with_payload(amount="NaN"), "payload.amount is not a plain decimal"),
        (body_with_payload(amount="1e3"), "payload.amount is not a plain decimal"),
        (body_with_payload(amount="-1"), "payload.amount is not a plain decimal"),
        (body_with_payload(amount="1.00001"), "payload.amount is not a plain decimal"),
        (body_with_payload(amount="1_000"), "payload.amount is not a plain decimal"),
        (body_with_payload(amount="١"), "payload.amount is not a plain decimal"),
        (body_with_payload(amount="9" * 5_000), "payload.amount is not a plain decimal"),
        (body_with_payload(amount="100000000000000.0001"), "payload.amount is 100000000000000.0001; it is at most"),
        (body_with_payload(newBalance="99999999999999999"), "payload.newBalance is not a plain decimal"),
        (body_with_payload(walletId="bob"), "is not the event's wallet 'alice'"),
        (body_with_payload(requestId="a b"), "payload.requestId is not an id"),
        (body_with_payload(requestId="\x00"), "payload.requestId is not an id"),
        (body(type="TransferDebited"), "payload.transferId of TransferDebited is missing"),
        (body(type="TransferDebited", payload=TRANSFER | {"transferId": "7"}), "payload.transferId is not a UUID"),
        (body(type="TransferDebited", payload=TRANSFER | {"toWalletId": ""}), "payload.toWalletId is not an id"),
        (body(type="TransferFailed", payload=TRANSFER), "payload.reason of TransferFailed is missing"),
        (body(type="WalletCreated"), "payload.currency of WalletCreated is missing"),
    ],
)
def test_a_body_that_is_no_event_is_refused_with_its_reason(message: bytes, reason: str) -> None:
    with pytest.raises(UndecodableMessage) as refused:
        decode_envelope(message)
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 600
