"""The digest of a batch: written out here once more, so that it can never change without a test that fails."""

from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID

from wallet.wire.digest import (
    GENESIS,
    DigestedEvent,
    DigestedOperation,
    chain_of,
    digest_of,
    encode_payload,
    serialize_event,
)

EVENT = DigestedEvent(
    bucket=17,
    wallet_id="alice",
    version=3,
    event_id=UUID(int=1),
    type="FundsWithdrawn",
    occurred_at=datetime(2026, 1, 1, 0, 0, 0, 5, tzinfo=UTC),
    amount="30.0000",
    balance_after="70.0000",
    transfer_id=None,
    api_audit_id=UUID(int=2),
    payload=encode_payload({"walletId": "alice", "amount": "30.0000"}),
)
OPERATION = DigestedOperation(
    bucket=17,
    wallet_id="alice",
    request_id="a2",
    kind="withdraw",
    fingerprint="withdraw:30.0000:",
    success=False,
    status=400,
    refusal="insufficient_funds",
    response=b"x" * 5000,
    api_audit_id=UUID(int=2),
)
EVENT_FIELDS = (
    b"event",
    b"17",
    b"alice",
    b"3",
    bytes(15) + b"\x01",
    b"FundsWithdrawn",
    b"1767225600000005",
    b"30.0000",
    b"70.0000",
    b"",
    bytes(15) + b"\x02",
    b'{"amount":"30.0000","walletId":"alice"}',
)
OPERATION_FIELDS = (
    b"operation",
    b"17",
    b"alice",
    b"a2",
    b"withdraw",
    b"withdraw:30.0000:",
    b"0",
    b"400",
    b"insufficient_funds",
    b"x" * 5000,
    bytes(15) + b"\x02",
)


def test_each_field_is_preceded_by_its_length_in_four_bytes() -> None:
    digest = sha256()
    for field in (*EVENT_FIELDS, *OPERATION_FIELDS):
        digest.update(len(field).to_bytes(4, "big") + field)
    assert digest_of([serialize_event(EVENT)], [OPERATION]) == digest.digest()


def test_an_empty_batch_has_the_digest_of_nothing() -> None:
    assert digest_of([], []) == sha256(b"").digest()


def test_the_chain_takes_up_the_value_before_the_position_and_the_digest() -> None:
    first = chain_of(GENESIS, 1, b"d" * 32)
    assert first == sha256(bytes(32) + (1).to_bytes(8, "big") + b"d" * 32).digest()
    assert chain_of(first, 2, b"d" * 32) != first
