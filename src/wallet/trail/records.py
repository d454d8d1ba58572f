"""The rows of the audit trail: one for each POST.

A row is written by the transaction that decided the request, or else in the background.
"""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from wallet.domain.identifiers import NO_WALLET_BUCKET, ApiAuditId, OperationKey, RequestId, WalletId, bucket_of
from wallet.domain.money import Value
from wallet.postgres.connections import AnyConnection
from wallet.postgres.statements import Columns, array_of, array_of_texts, load_statements
from wallet.postgres.writing import Writing

CLOCK_DIFFERENCE_MS_MAX: Final = 300_000
"""How much the clocks of two api processes may differ, as each may differ from PostgreSQL's clock."""

SQL: Final = load_statements("wallet.trail", "trail.sql")


class TrailRecord(Value, frozen=True, kw_only=True):
    """The audit data of a POST before it is decided. Secrets are already redacted.

    `body` is the first 4 KiB of the body as text (with undecodable bytes and NUL replaced). `body_sha256` covers all
    bytes that were read. `headers_json` is a JSON object of strings.
    """

    api_audit_id: ApiAuditId
    method: str
    url: str
    body: str
    body_length: int
    body_sha256: bytes
    headers_json: str
    client_ip: str
    wallet_id: WalletId | None
    request_id: RequestId | None


_RECORDS: Final = Columns(TrailRecord, headers_json=list)


class TrailRow(Value, frozen=True):
    """An audit record with the status of its answer, which is None until the requested transfer has ended."""

    record: TrailRecord
    status: int | None

    @property
    def bucket(self) -> int:
        """The bucket of the wallet in the path, or 0 if the path has none."""
        wallet_id = self.record.wallet_id
        return NO_WALLET_BUCKET if wallet_id is None else bucket_of(wallet_id)


async def insert_trail_rows(
    connection: AnyConnection | Writing, rows: Sequence[TrailRow], timestamp: datetime | None
) -> None:
    """Insert the rows in key order, in one round trip. A row that already exists is not changed.

    `timestamp` is the batch's time. If it is None, the rows have waited to be written, and each row gets the database's
    time minus its age.
    """
    ordered = sorted(((row.bucket, row) for row in rows), key=lambda pair: (pair[0], pair[1].record.api_audit_id))
    records = [row.record for _, row in ordered]
    await connection.execute(
        SQL.insert_trail_rows,
        *_RECORDS.arrays(records),
        array_of([bucket for bucket, _ in ordered]),
        array_of([row.status for _, row in ordered]),
        timestamp,
        array_of([] if timestamp is not None else [_age(record.api_audit_id) for record in records]),
    )


def _age(api_audit_id: ApiAuditId) -> str:
    """Returns the time since this process created the id. A UUIDv7 begins with its time in milliseconds."""
    return f"{max(0, int(time.time() * 1000) - (api_audit_id.int >> 80))} milliseconds"


async def complete_trail_rows(
    connection: AnyConnection | Writing, ended: Sequence[tuple[WalletId, ApiAuditId, int]]
) -> None:
    """Set the status of rows that may have been inserted without one, if it is not set. One round trip."""
    ordered = sorted((bucket_of(wallet_id), audit_id, status) for wallet_id, audit_id, status in set(ended))
    await connection.execute(
        SQL.complete_trail_rows,
        array_of([bucket for bucket, _, _ in ordered]),
        [audit_id for _, audit_id, _ in ordered],
        array_of([status for _, _, status in ordered]),
    )


class EndedTransfer(Value, frozen=True):
    """A stepwise transfer that ended: its key, the audit id of the request that began it, and its answer's status."""

    key: OperationKey
    first_api_audit_id: ApiAuditId
    status: int


async def complete_rows_of_transfers(writing: Writing, ended: Sequence[EndedTransfer]) -> None:
    """Set the status of all rows with the key of a transfer that ended, if it is not set. One round trip.

    These are the rows of the first request and of every retry that found the transfer pending, even if the process that
    received it has ended. Rows are searched by their ids, which begin with their time, from the first request on.
    """
    ordered = sorted((bucket_of(each.key.wallet_id), each.key, each) for each in set(ended))
    await writing.execute(
        SQL.complete_rows_of_transfers,
        array_of([bucket for bucket, _, _ in ordered]),
        array_of_texts([key.wallet_id for _, key, _ in ordered]),
        array_of_texts([key.request_id for _, key, _ in ordered]),
        [_earliest(each.first_api_audit_id) for _, _, each in ordered],
        array_of([each.status for _, _, each in ordered]),
    )


def _earliest(first: ApiAuditId) -> UUID:
    """Returns the lowest id that a retry can have, even if another process with another clock created it."""
    return UUID(int=max(0, (first.int >> 80) - CLOCK_DIFFERENCE_MS_MAX) << 80)
