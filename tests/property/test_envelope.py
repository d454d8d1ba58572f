"""The codec: whatever the domain records, the worker reads back as it was; whatever else comes, it refuses."""

from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from wallet.domain.events import (
    SCHEMA_VERSION,
    Event,
    FundsDeposited,
    FundsWithdrawn,
    RecordedEvent,
    TransferCompensated,
    TransferCompleted,
    TransferCredited,
    TransferDebited,
    TransferFailed,
    TransferInitiated,
    TransferTerms,
    WalletCreated,
    payload_of,
    type_of,
)
from wallet.domain.identifiers import ID_PATTERN, ApiAuditId, RequestId, TransferId, WalletId
from wallet.domain.money import AMOUNT_MAX, BALANCE_MAX
from wallet.wire.envelope import StoredEvent, UndecodableMessage, decode_envelope, encode_envelope

ids = st.from_regex(ID_PATTERN, fullmatch=True)
amounts = st.decimals(min_value=Decimal("0.0001"), max_value=AMOUNT_MAX, places=4)
balances = st.decimals(min_value=0, max_value=BALANCE_MAX, places=4)
currencies = st.sampled_from(["USD", "EUR", "JPY"])
reasons = st.text(max_size=200)
terms = st.builds(
    TransferTerms,
    transfer_id=st.uuids().map(TransferId),
    from_wallet_id=ids.map(WalletId),
    to_wallet_id=ids.map(WalletId),
    amount=amounts,
    currency=currencies,
)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(WalletCreated, currencies),
    st.builds(FundsDeposited, amounts),
    st.builds(FundsWithdrawn, amounts),
    st.builds(TransferInitiated, terms),
    st.builds(TransferDebited, terms),
    st.builds(TransferCredited, terms),
    st.builds(TransferCompleted, terms),
    st.builds(TransferCompensated, terms, reasons),
    st.builds(TransferFailed, terms, reasons),
)
recorded_events = st.builds(
    RecordedEvent,
    event=events,
    wallet_id=ids.map(WalletId),
    version=st.integers(1, 2**63 - 1),
    occurred_at=st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001
    balance_after=balances,
    request_id=ids.map(RequestId),
    api_audit_id=st.uuids().map(ApiAuditId),
)


@given(recorded=recorded_events, position=st.integers(1, 2**63 - 1))
def test_what_is_recorded_is_what_is_read(recorded: RecordedEvent, position: int) -> None:
    event_id = uuid7()
    payload = payload_of(recorded)
    stored = StoredEvent(
        event_id,
        type_of(recorded.event),
        SCHEMA_VERSION,
        recorded.occurred_at,
        recorded.wallet_id,
        recorded.version,
        msgspec.json.encode(payload).decode(),
    )
    envelope = decode_envelope(encode_envelope(stored, position))
    assert envelope.event_id == event_id
    assert (envelope.type, envelope.schema_version) == (stored.type, SCHEMA_VERSION)
    assert (envelope.occurred_at, envelope.wallet_id) == (recorded.occurred_at, recorded.wallet_id)
    assert (envelope.version, envelope.position) == (recorded.version, position)
    assert envelope.payload["amount"] == recorded.event.amount
    assert envelope.payload["newBalance"] == recorded.balance_after
    assert {name: str(value) for name, value in envelope.payload.items()} == payload


@given(body=st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused_and_never_crash(body: bytes) -> None:
    with pytest.raises(UndecodableMessage):
        decode_envelope(body)


@given(
    name=st.sampled_from(["id", "type", "schemaVersion", "occurredAt", "walletId", "version", "position", "payload"]),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda children: st.lists(children) | st.dictionaries(st.text(), children),
        max_leaves=5,
    ),
)
def test_a_message_with_any_field_replaced_is_read_whole_or_refused(name: str, value: object) -> None:
    message = {
        "id": str(uuid7()),
        "type": "FundsDeposited",
        "schemaVersion": 1,
        "occurredAt": "2026-03-01T12:00:00.000042Z",
        "walletId": "alice",
        "version": 2,
        "position": 7,
        "payload": {"walletId": "alice", "amount": "1", "newBalance": "2", "requestId": "r"},
    } | {name: value}
    try:
        envelope = decode_envelope(msgspec.json.encode(message))
    except UndecodableMessage:
        return
    assert (envelope.payload["amount"], envelope.payload["requestId"]) == (Decimal(1), "r")
