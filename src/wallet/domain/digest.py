"""The digest of a batch: what the journal's chain is made of, so that no stored event or outcome can change unseen.

sha256 over records of length-prefixed fields: first the events in ordinal order, then the operations in key
order. Every field is reduced to bytes in one way only, whether it comes from memory or back from PostgreSQL.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import msgspec

from wallet.domain.money import format_money

GENESIS: Final = bytes(32)
"""The chain value before the first position."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# Made once, as lengths are small and a batch has thousands of fields.
_PREFIXES: Final = [length.to_bytes(4, "big") for length in range(1024)]
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class DigestedEvent:
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
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DigestedOperation:
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


def _event_fields(event: DigestedEvent) -> tuple[bytes, ...]:
    return (
        b"event",
        b"%d" % event.bucket,
        event.wallet_id.encode(),
        b"%d" % event.version,
        event.event_id.bytes,
        event.type.encode(),
        b"%d" % ((event.occurred_at - _EPOCH) // _MICROSECOND),
        format_money(event.amount).encode(),
        format_money(event.balance_after).encode(),
        b"" if event.transfer_id is None else event.transfer_id.bytes,
        event.api_audit_id.bytes,
        _encode_sorted(event.payload),
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
