"""The digest of a batch: what the journal's chain is made of, so that no stored event or outcome can change unseen.

sha256 over records of length-prefixed fields: first the events in ordinal order, then the operations in key
order. Every field is reduced to bytes in one way only, whether it comes from memory or back from PostgreSQL.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from typing import Final
from uuid import UUID

import msgspec

from wallet.domain.events import SIGNS
from wallet.domain.money import format_money
from wallet.domain.values import Value

GENESIS: Final = bytes(32)
"""The chain value before the first position."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# Made once, as lengths are small and a batch has thousands of fields.
_PREFIXES: Final = [length.to_bytes(4, "big") for length in range(1024)]
_TYPES: Final = {event_type: event_type.encode() for event_type in SIGNS}

encode_payload: Final = msgspec.json.Encoder(order="sorted").encode
"""A payload as sorted compact JSON: the bytes that the digest covers, and that are stored."""


class DigestedEvent(Value, frozen=True):
    """The fields of an events row that the digest covers."""

    bucket: int
    wallet_id: str
    version: int
    event_id: UUID
    type: str
    occurred_at: datetime
    amount: Decimal
    balance_after: Decimal
    transfer_id: UUID | None
    api_audit_id: UUID
    payload: bytes
    """As `encode_payload` gives it."""


class DigestedOperation(Value, frozen=True):
    """The fields of a final operations row that the digest covers."""

    bucket: int
    wallet_id: str
    request_id: str
    kind: str
    fingerprint: str
    success: bool
    status: int
    refusal: str | None
    response: bytes
    api_audit_id: UUID


def digest_of(events: Iterable[DigestedEvent], operations: Iterable[DigestedOperation]) -> bytes:
    """The 32 bytes of a batch: its events in ordinal order, its operations in any order."""
    fields: list[bytes] = []
    for event in events:
        fields += _event_fields(event)
    for operation in sorted(operations, key=lambda row: (row.bucket, row.wallet_id, row.request_id)):
        fields += _operation_fields(operation)
    return sha256(_length_prefixed(fields)).digest()


def chain_of(previous: bytes, position: int, digest: bytes) -> bytes:
    """The chain value of a position: sha256(previous chain, position as 8 bytes big-endian, digest)."""
    return sha256(previous + position.to_bytes(8, "big") + digest).digest()


def _length_prefixed(fields: list[bytes]) -> bytes:
    parts = [b""] * (2 * len(fields))
    parts[::2] = [
        _PREFIXES[length] if length < len(_PREFIXES) else length.to_bytes(4, "big") for length in map(len, fields)
    ]
    parts[1::2] = fields
    return b"".join(parts)


@lru_cache(maxsize=64)
def _microseconds(time: datetime) -> bytes:
    """Microseconds since 1970. The events of a batch have one time, or a few."""
    return b"%d" % ((time - _EPOCH) // _MICROSECOND)


def _event_fields(event: DigestedEvent) -> tuple[bytes, ...]:
    return (
        b"event",
        b"%d" % event.bucket,
        event.wallet_id.encode(),
        b"%d" % event.version,
        event.event_id.bytes,
        _TYPES.get(event.type) or event.type.encode(),
        _microseconds(event.occurred_at),
        format_money(event.amount).encode(),
        format_money(event.balance_after).encode(),
        b"" if event.transfer_id is None else event.transfer_id.bytes,
        event.api_audit_id.bytes,
        event.payload,
    )


def _operation_fields(operation: DigestedOperation) -> tuple[bytes, ...]:
    return (
        b"operation",
        b"%d" % operation.bucket,
        operation.wallet_id.encode(),
        operation.request_id.encode(),
        operation.kind.encode(),
        operation.fingerprint.encode(),
        b"%d" % operation.success,
        b"%d" % operation.status,
        b"" if operation.refusal is None else operation.refusal.encode(),
        operation.response,
        operation.api_audit_id.bytes,
    )
