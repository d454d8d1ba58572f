"""The rows that a batch writes, and the statements that write them.

The rows of each table are written in primary-key order, because unsorted rows can cause deadlocks. Each statement is a
function that takes arrays, returns rows, and needs one round trip.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, assert_never

from wallet.domain.batch import (
    BatchState,
    Begun,
    Concluded,
    Credited,
    Decided,
    Executable,
    Replayed,
    StillPending,
    StoredOperation,
)
from wallet.domain.events import SCHEMA_VERSION, RecordedEvent, TransferTerms, payload_of, type_of
from wallet.domain.identifiers import (
    ApiAuditId,
    BatchId,
    EventId,
    OperationKey,
    RequestId,
    TransferId,
    WalletId,
    bucket_of,
)
from wallet.domain.money import Value
from wallet.domain.outcomes import FinalOutcome, KeyReused, Rejected, Transferred
from wallet.domain.transfer import CreditAccepted, CreditOutcome, CreditRefused, TransferStatus
from wallet.domain.wallet import DEFAULT_CURRENCY, Wallet
from wallet.ledger.requests import Answer, Completed, Request
from wallet.postgres.connections import AnyConnection
from wallet.postgres.statements import Columns, array_of, array_of_texts, load_statements, uuid7
from wallet.postgres.writing import Writing
from wallet.wire.digest import DigestedEvent, DigestedOperation, encode_payload, serialize_event

EVENTS_PER_STATEMENT: Final = 300
"""Small enough for PostgreSQL to store one chunk while the rows of the next one are built."""
SQL: Final = load_statements("wallet.ledger", "ledger.sql")
_EVENTS: Final = Columns(
    DigestedEvent,
    # Texts of numbers need no quotes, and PostgreSQL reads them faster without.
    amount=array_of,
    balance_after=array_of,
    payload=lambda payloads: [payload.decode() for payload in payloads],
)
_WALLETS: Final = Columns(Wallet)


class OperationRow(Value, frozen=True):
    """A row of `operations`. A pending row, whose transfer has not ended, has no outcome."""

    bucket: int
    wallet_id: WalletId
    request_id: RequestId
    kind: str
    fingerprint: str
    state: str
    success: bool | None
    status: int | None
    refusal: str | None
    response: bytes | None
    api_audit_id: ApiAuditId


class TransferRow(Value, frozen=True):
    """A row of `transfers` that is new, or that ended in this batch."""

    bucket: int
    from_wallet_id: WalletId
    transfer_id: TransferId
    to_wallet_id: WalletId
    amount: Decimal
    currency: str
    status: TransferStatus
    last_error: str | None
    request_id: RequestId
    api_audit_id: ApiAuditId


class CreditRow(Value, frozen=True):
    """A row of `transfer_credits`: the receiver's decision."""

    bucket: int
    to_wallet_id: WalletId
    transfer_id: TransferId
    outcome: str
    reason: str | None
    event_version: int | None
    balance_after: Decimal | None


@dataclass(slots=True)
class BatchRows:
    """The rows that a batch stores, except events, audit rows and wallets. Each list is sorted by primary key."""

    operations: list[OperationRow] = field(default_factory=list)
    completed: list[OperationRow] = field(default_factory=list)
    transfers: list[TransferRow] = field(default_factory=list)
    ended: list[TransferRow] = field(default_factory=list)
    credits: list[CreditRow] = field(default_factory=list)

    def outcomes(self) -> Iterator[DigestedOperation]:
        """Returns the operations that got their final outcome in this batch, in the form that the digest covers."""
        return filter(None, map(_digested, (*self.operations, *self.completed)))


def event_row_of(recorded: RecordedEvent) -> DigestedEvent:
    """Returns an event as it is stored, with a new id."""
    event, payload = recorded.event, payload_of(recorded)
    return DigestedEvent(
        bucket_of(recorded.wallet_id),
        recorded.wallet_id,
        recorded.version,
        EventId(uuid7()),
        type_of(event),
        recorded.occurred_at,
        payload["amount"],
        payload["newBalance"],
        event.transfer_id,
        recorded.api_audit_id,
        encode_payload(payload),
    )


def rows_of(completed: Iterable[tuple[Request, Completed]], state: BatchState) -> BatchRows:
    """Returns the rows for the decisions of a batch."""
    rows = BatchRows()
    for request, result in completed:
        _add_request(rows, request, result, state)
    rows.operations.sort(key=lambda row: (row.bucket, row.wallet_id, row.request_id))
    rows.completed.sort(key=lambda row: (row.bucket, row.wallet_id, row.request_id))
    rows.transfers.sort(key=lambda row: (row.bucket, row.from_wallet_id, row.transfer_id))
    rows.ended.sort(key=lambda row: (row.bucket, row.from_wallet_id, row.transfer_id))
    rows.credits.sort(key=lambda row: (row.bucket, row.to_wallet_id, row.transfer_id))
    return rows


def _add_request(rows: BatchRows, request: Request, result: Completed, state: BatchState) -> None:
    for command, decision, answer in zip(request.commands, result.decisions, result.answers, strict=True):
        match decision:
            case Decided(outcome):
                rows.operations.append(_operation_row(command, state, answer, outcome))
                if isinstance(outcome, Transferred):
                    rows.transfers.append(_transfer_row(command, outcome.terms, TransferStatus.COMPLETED))
            case Begun(terms):
                rows.operations.append(_operation_row(command, state))
                rows.transfers.append(_transfer_row(command, terms, TransferStatus.DEBITED))
            case Credited(terms, outcome, is_new):
                if is_new:
                    rows.credits.append(_credit_row(terms, outcome))
            case Concluded(terms, outcome, status, last_error):
                rows.completed.append(_operation_row(command, state, answer, outcome))
                rows.ended.append(_transfer_row(command, terms, status, last_error))
            case Replayed() | StillPending() | KeyReused():
                pass
            case _:
                assert_never(decision)


def _operation_row(
    command: Executable, state: BatchState, answer: Answer | None = None, outcome: FinalOutcome | None = None
) -> OperationRow:
    key = command.key
    stored = state.operations[key]
    return OperationRow(
        bucket_of(key.wallet_id),
        key.wallet_id,
        key.request_id,
        command.kind,
        stored.fingerprint,
        "pending" if answer is None else "final",
        None if answer is None else answer.success,
        None if answer is None else answer.status,
        outcome.reason.value if isinstance(outcome, Rejected) else None,
        None if answer is None else answer.body,
        stored.api_audit_id,
    )


def _transfer_row(
    command: Executable, terms: TransferTerms, status: TransferStatus, last_error: str | None = None
) -> TransferRow:
    return TransferRow(
        bucket_of(terms.from_wallet_id),
        terms.from_wallet_id,
        terms.transfer_id,
        terms.to_wallet_id,
        terms.amount,
        terms.currency,
        status,
        last_error,
        command.request_id,
        command.api_audit_id,
    )


def _credit_row(terms: TransferTerms, outcome: CreditOutcome) -> CreditRow:
    place = bucket_of(terms.to_wallet_id), terms.to_wallet_id, terms.transfer_id
    match outcome:
        case CreditAccepted(balance_after, version):
            return CreditRow(*place, "credited", None, version, balance_after)
        case CreditRefused(reason):
            return CreditRow(*place, "refused", reason, None, None)
        case _:
            assert_never(outcome)


def _digested(row: OperationRow) -> DigestedOperation | None:
    if row.success is None or row.status is None or row.response is None:
        return None
    return DigestedOperation(
        row.bucket,
        row.wallet_id,
        row.request_id,
        row.kind,
        row.fingerprint,
        row.success,
        row.status,
        row.refusal,
        row.response,
        row.api_audit_id,
    )


_OPERATIONS: Final = Columns(OperationRow)
COMPLETED_OPERATION: Final = ("bucket", "wallet_id", "request_id", "success", "status", "refusal", "response")
"""The columns of an operation that is completed: its key, then what changes."""
_COMPLETED_OPERATIONS: Final = Columns(OperationRow, *COMPLETED_OPERATION)
_TRANSFERS: Final = Columns(TransferRow)
ENDED_TRANSFER: Final = ("bucket", "from_wallet_id", "transfer_id", "status", "last_error")
"""The columns of a transfer that has ended: its key, then what changes."""
_ENDED_TRANSFERS: Final = Columns(TransferRow, *ENDED_TRANSFER)
_CREDITS: Final = Columns(CreditRow)


def _sorted_keys(wallet_ids: Iterable[WalletId]) -> tuple[str, str]:
    keys = sorted((bucket_of(wallet_id), wallet_id) for wallet_id in set(wallet_ids))
    return array_of([bucket for bucket, _ in keys]), array_of_texts([wallet_id for _, wallet_id in keys])


async def insert_wallets(connection: AnyConnection, wallet_ids: Iterable[WalletId]) -> list[WalletId]:
    """Insert rows, to be locked, for wallets that a credit may create. Returns the wallets whose rows are new."""
    buckets, ids = _sorted_keys(wallet_ids)
    rows = await connection.fetch(SQL.insert_wallets, buckets, ids, DEFAULT_CURRENCY)
    return [row["wallet_id"] for row in rows]


async def lock_wallets(
    connection: AnyConnection, wallet_ids: Iterable[WalletId], *, skip_locked: bool
) -> dict[WalletId, Wallet]:
    """Lock the rows in key order, and return their wallets.

    Wallets without a row are missing in the result; with `skip_locked`, those locked by other sessions are too.
    """
    buckets, ids = _sorted_keys(wallet_ids)
    rows = await connection.fetch(SQL.lock_free_wallets if skip_locked else SQL.lock_wallets, buckets, ids)
    return {row["wallet_id"]: Wallet(**row) for row in rows}


async def existing_wallets(connection: AnyConnection, wallet_ids: Iterable[WalletId]) -> set[WalletId]:
    """Returns the wallets that have a row, whether it is locked or not."""
    rows = await connection.fetch(SQL.existing_wallets, *_sorted_keys(wallet_ids))
    return {row["wallet_id"] for row in rows}


@dataclass(frozen=True, slots=True)
class LoadedOperations:
    """The stored operations of a batch's keys, their final answers, and what the same statement reads besides."""

    now: datetime
    """PostgreSQL's clock."""
    operations: dict[OperationKey, StoredOperation]
    answers: dict[OperationKey, Answer]
    has_debited: bool
    """Whether any stepwise transfer, of any wallet, has been debited and has not ended."""


async def load_operations(connection: AnyConnection, keys: Iterable[OperationKey]) -> LoadedOperations:
    """Read the stored operations of the keys."""
    ordered = sorted((bucket_of(key.wallet_id), key) for key in set(keys))
    rows = await connection.fetch(
        SQL.load_operations,
        array_of([bucket for bucket, _ in ordered]),
        array_of_texts([key.wallet_id for _, key in ordered]),
        array_of_texts([key.request_id for _, key in ordered]),
    )
    operations, answers = {}, {}
    for row in rows:
        if row["wallet_id"] is None:
            continue
        key = OperationKey(row["wallet_id"], row["request_id"])
        is_final = row["state"] == "final"
        operations[key] = StoredOperation(row["fingerprint"], row["api_audit_id"], is_final)
        if is_final:
            answers[key] = Answer(row["status"], row["response"], replayed=True)
    return LoadedOperations(rows[0]["now"], operations, answers, rows[0]["has_debited"])


async def load_refundable(connection: AnyConnection, wallet_ids: Iterable[WalletId]) -> dict[WalletId, Decimal]:
    """Returns the sum of the unfinished stepwise transfers of each sender. Wallets without any are missing."""
    rows = await connection.fetch(SQL.load_refundable, array_of_texts(sorted(wallet_ids)))
    return {row["from_wallet_id"]: row["amount"] for row in rows}


async def load_credits(connection: AnyConnection, terms: Sequence[TransferTerms]) -> dict[TransferId, CreditOutcome]:
    """Returns the receivers' decisions that are already stored."""
    rows = await connection.fetch(
        SQL.load_credits,
        array_of([bucket_of(each.to_wallet_id) for each in terms]),
        array_of_texts([each.to_wallet_id for each in terms]),
        [each.transfer_id for each in terms],
    )
    return {row["transfer_id"]: credit_outcome_of(row) for row in rows}


def credit_outcome_of(row: Any) -> CreditOutcome:
    """Returns the receiver's decision that a transfer_credits row stores."""
    if row["outcome"] == "credited":
        return CreditAccepted(row["balance_after"], row["event_version"])
    return CreditRefused(row["reason"])


async def load_unfinished(connection: AnyConnection, terms: Sequence[TransferTerms]) -> set[TransferId]:
    """Returns those of the transfers that are still debited."""
    rows = await connection.fetch(
        SQL.load_unfinished,
        array_of([bucket_of(each.from_wallet_id) for each in terms]),
        array_of_texts([each.from_wallet_id for each in terms]),
        [each.transfer_id for each in terms],
    )
    return {row["transfer_id"] for row in rows}


async def insert_events(writing: Writing, recorded: list[RecordedEvent], batch_id: BatchId) -> list[bytes]:
    """Store the events, a chunk at a time. Returns them in ordinal order, in the form that the digest covers."""
    placed = [(bucket_of(event.wallet_id), event.wallet_id, event.version, i) for i, event in enumerate(recorded)]
    ordinals = [ordinal for _, _, _, ordinal in sorted(placed)]
    spelled = [b""] * len(recorded)
    for start in range(0, len(ordinals), EVENTS_PER_STATEMENT):
        chunk = ordinals[start : start + EVENTS_PER_STATEMENT]
        rows = [event_row_of(recorded[ordinal]) for ordinal in chunk]
        await _insert_chunk(writing, chunk, rows, batch_id)
        for ordinal, row in zip(chunk, rows, strict=True):
            spelled[ordinal] = serialize_event(row)
    return spelled


async def _insert_chunk(writing: Writing, ordinals: list[int], rows: list[DigestedEvent], batch_id: BatchId) -> None:
    await writing.execute(SQL.insert_events, *_EVENTS.arrays(rows), array_of(ordinals), SCHEMA_VERSION, batch_id)


async def write_rows(writing: Writing, rows: BatchRows, batch_id: BatchId, now: datetime) -> None:
    """Store operations, transfers and credits. A wrong number of changed rows raises WriteConflict."""
    if rows.operations:
        await writing.execute(SQL.insert_operations, *_OPERATIONS.arrays(rows.operations), batch_id)
    if rows.completed:
        arrays = _COMPLETED_OPERATIONS.arrays(rows.completed)
        await writing.execute(SQL.complete_operations, *arrays, batch_id, row_count=len(rows.completed))
    if rows.transfers:
        await writing.execute(SQL.insert_transfers, *_TRANSFERS.arrays(rows.transfers), now)
    if rows.ended:
        arrays = _ENDED_TRANSFERS.arrays(rows.ended)
        await writing.execute(SQL.end_transfers, *arrays, now, row_count=len(rows.ended))
    if rows.credits:
        await writing.execute(SQL.insert_credits, *_CREDITS.arrays(rows.credits), now)


async def update_wallets(writing: Writing, before: dict[WalletId, Wallet], after: list[Wallet]) -> None:
    """Store the new states. Raises WriteConflict if a wallet no longer has the version that was locked."""
    keyed = sorted(((bucket_of(wallet.wallet_id), wallet) for wallet in after), key=lambda k: (k[0], k[1].wallet_id))
    wallets = [wallet for _, wallet in keyed]
    await writing.execute(
        SQL.update_wallets,
        *_WALLETS.arrays(wallets),
        array_of([bucket for bucket, _ in keyed]),
        array_of([before[wallet.wallet_id].version for wallet in wallets]),
        row_count=len(wallets),
    )


async def delete_unmade_wallets(connection: AnyConnection, wallet_ids: Iterable[WalletId]) -> None:
    """Delete the rows that were inserted to be locked, and whose wallets were not created after all."""
    await connection.execute(SQL.delete_unmade_wallets, *_sorted_keys(wallet_ids))


async def insert_journal_row(writing: Writing, batch_id: BatchId, event_count: int, digest: bytes) -> None:
    """Insert the batch's journal row. Its seq is drawn here, after the wallets were locked."""
    await writing.execute(SQL.insert_journal_row, batch_id, event_count, digest)
