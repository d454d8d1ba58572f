"""Inserts batches directly, as the ledger would leave them to the relay: event rows and an unsealed journal row."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from wallet.domain.identifiers import WalletId, bucket_of
from wallet.postgres.connections import AnyConnection

_DEPOSIT = "1.0000"
_wallet_numbers = itertools.count(1)

_INSERT_EVENTS = """
insert into events (bucket, wallet_id, version, event_id, type, schema_version, amount, balance_after, payload,
    batch_id, ordinal, api_audit_id, occurred_at)
select $1, $2, version, event_id, 'FundsDeposited', 1, 1, version, payload::jsonb,
    $3, version - 1, event_id, occurred_at
from unnest($4::bigint[], $5::uuid[], $6::text[], $7::timestamptz[]) as row (version, event_id, payload, occurred_at)
"""


@dataclass(frozen=True, slots=True)
class InsertedBatch:
    """What was inserted: the ids, in order, and the digest that the chain must contain."""

    batch_id: UUID
    wallet_id: str
    event_ids: Sequence[UUID]
    digest: bytes


async def insert_batch(
    connection: AnyConnection, event_count: int = 1, *, visible_count: int | None = None
) -> InsertedBatch:
    """Insert a batch of deposits into a new wallet, in the caller's transaction if there is one.

    With `visible_count`, only this many of its events are inserted.
    """
    batch_id = uuid7()
    digest = sha256(batch_id.bytes).digest()
    batch = InsertedBatch(batch_id, f"wallet-{next(_wallet_numbers)}", [uuid7() for _ in range(event_count)], digest)
    await connection.execute(
        "insert into journal (batch_id, event_count, digest) values ($1, $2, $3)", batch_id, event_count, digest
    )
    await insert_events(connection, batch, 0, event_count if visible_count is None else visible_count)
    return batch


async def insert_events(connection: AnyConnection, batch: InsertedBatch, start: int, end: int) -> None:
    """Insert the events of a batch with ordinals from `start` up to, but not including, `end`."""
    versions = range(start + 1, end + 1)
    now = datetime.now(UTC)
    await connection.execute(
        _INSERT_EVENTS,
        bucket_of(WalletId(batch.wallet_id)),
        batch.wallet_id,
        batch.batch_id,
        list(versions),
        list(batch.event_ids[start:end]),
        [_payload(batch.wallet_id, version) for version in versions],
        [now + timedelta(microseconds=version) for version in versions],
    )


def _payload(wallet_id: str, version: int) -> str:
    payload = {
        "walletId": wallet_id,
        "amount": _DEPOSIT,
        "newBalance": f"{version}.0000",
        "requestId": f"request-{version}",
    }
    return msgspec.json.encode(payload).decode()
