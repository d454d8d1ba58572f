"""The digest of a batch. The journal's chain covers the digests, so changes of stored events or outcomes are detected.

A digest is the sha256 of records with length-prefixed fields: first the events in ordinal order, then the operations in
key order. A field has the same bytes whether its value comes from memory or is read from PostgreSQL.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Final
from uuid import UUID

import msgspec

from wallet.domain.events import EVENT_TYPES
from wallet.domain.identifiers import BUCKET_COUNT
from wallet.domain.money import Value

GENESIS: Final = bytes(32)
"""The chain value before the first position."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# Computed once, because lengths are small and a batch has thousands of fields.
_LENGTHS: Final = [length.to_bytes(4, "big") for length in range(1024)]


def _length_of(field: bytes) -> bytes:
    length = len(field)
    return _LENGTHS[length] if length < len(_LENGTHS) else length.to_bytes(4, "big")


def _field(field: bytes) -> bytes:
    return _length_of(field) + field


_EVENT: Final = _field(b"event")
_EMPTY: Final = _field(b"")
_UUID_LENGTH: Final = _LENGTHS[16]
_BUCKETS: Final = [_field(b"%d" % bucket) for bucket in range(BUCKET_COUNT)]
_TYPES: Final = {event_type: _field(event_type.encode()) for event_type in EVENT_TYPES}

encode_payload: Final = msgspec.json.Encoder(order="sorted").encode
"""Returns a payload as compact JSON with sorted keys: the bytes that are stored and that the digest covers."""


class DigestedEvent(Value, frozen=True):
    """The fields of an events row that the digest covers."""

    bucket: int
    wallet_id: str
    version: int
    event_id: UUID
    type: str
    occurred_at: datetime
    amount: str
    """Money in the format of `format_money`."""
    balance_after: str
    transfer_id: UUID | None
    api_audit_id: UUID
    payload: bytes
    """The JSON text from `encode_payload`."""


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


def digest_of(events: Iterable[bytes], operations: Iterable[DigestedOperation]) -> bytes:
    """Returns the 32-byte digest of a batch.

    `events` are in the format of `serialize_event` and in ordinal order. `operations` may be in any order.
    """
    ordered = sorted(operations, key=lambda row: (row.bucket, row.wallet_id, row.request_id))
    return sha256(b"".join((*events, *map(_serialize_operation, ordered)))).digest()


def serialize_event(event: DigestedEvent) -> bytes:
    """Returns an event as the digest covers it: each field follows its length in four bytes, big-endian."""
    wallet_id, payload = event.wallet_id.encode(), event.payload
    version, amount, balance = b"%d" % event.version, event.amount.encode(), event.balance_after.encode()
    return b"".join(
        (
            _EVENT,
            _BUCKETS[event.bucket],
            _length_of(wallet_id),
            wallet_id,
            _length_of(version),
            version,
            _UUID_LENGTH,
            event.event_id.bytes,
            _TYPES.get(event.type) or _field(event.type.encode()),
            _microseconds(event.occurred_at),
            _length_of(amount),
            amount,
            _length_of(balance),
            balance,
            _EMPTY if event.transfer_id is None else _UUID_LENGTH + event.transfer_id.bytes,
            _UUID_LENGTH,
            event.api_audit_id.bytes,
            _length_of(payload),
            payload,
        )
    )


def chain_of(previous: bytes, position: int, digest: bytes) -> bytes:
    """Returns the chain value of a position: sha256(previous chain, position as 8 bytes big-endian, digest)."""
    return sha256(previous + position.to_bytes(8, "big") + digest).digest()


@lru_cache(maxsize=64)
def _microseconds(time: datetime) -> bytes:
    """Returns the field of a time, as microseconds since 1970. It is cached: the events of a batch have few times."""
    return _field(b"%d" % ((time - _EPOCH) // _MICROSECOND))


def _serialize_operation(operation: DigestedOperation) -> bytes:
    fields = (
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
    return b"".join(map(_field, fields))
