"""The rows that a batch writes, and the statements that write them.

The rows of each table are in primary-key order: unsorted ones cause deadlocks. Each statement is a function that takes
arrays, returns rows, and needs one round trip.
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
from wallet.postgres.statements import array_of, array_of_texts, array_of_texts_or_nulls, load_statements, uuid7
from wallet.postgres.writing import Writing
from wallet.wire.digest import DigestedEvent, DigestedOperation, encode_payload, spell_event


class OperationRow(Value, frozen=True):
    """A row of operations; `answer` is None while the transfer of a pending one has not ended."""

    bucket: int
    wallet_id: WalletId
    request_id: RequestId
    kind: str
    fingerprint: str
    api_audit_id: ApiAuditId
    answer: Answer | None
    refusal: str | None


class TransferRow(Value, frozen=True):
    """A row of transfers, new or ended now."""

    bucket: int
    terms: TransferTerms
    status: TransferStatus
    last_error: str | None
    request_id: RequestId
    api_audit_id: ApiAuditId


class CreditRow(Value, frozen=True):
    """A row of transfer_credits: the receiver's decision."""

    bucket: int
    terms: TransferTerms
    outcome: CreditOutcome


@dataclass(slots=True)
class BatchRows:
    """Everything a batch stores besides events, audit rows and wallet states, each sorted by its primary key."""

    operations: list[OperationRow] = field(default_factory=list)
    completed: list[OperationRow] = field(default_factory=list)
    transfers: list[TransferRow] = field(default_factory=list)
    ended: list[TransferRow] = field(default_factory=list)
    credits: list[CreditRow] = field(default_factory=list)

    def outcomes(self) -> Iterator[DigestedOperation]:
        """The operations that got their final outcome, as the digest covers them."""
        return filter(None, map(_digested, (*self.operations, *self.completed)))


def event_row_of(recorded: RecordedEvent) -> DigestedEvent:
    """An event as it is stored, with its id."""
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
    """Turn what was decided into rows."""
    rows = BatchRows()
    for request, result in completed:
        _add_request(rows, request, result, state)
    rows.operations.sort(key=lambda row: (row.bucket, row.wallet_id, row.request_id))
    rows.completed.sort(key=lambda row: (row.bucket, row.wallet_id, row.request_id))
    rows.transfers.sort(key=lambda row: (row.bucket, row.terms.from_wallet_id, row.terms.transfer_id))
    rows.ended.sort(key=lambda row: (row.bucket, row.terms.from_wallet_id, row.terms.transfer_id))
    rows.credits.sort(key=lambda row: (row.bucket, row.terms.to_wallet_id, row.terms.transfer_id))
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
                    rows.credits.append(CreditRow(bucket_of(terms.to_wallet_id), terms, outcome))
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
        stored.api_audit_id,
        answer,
        _refusal_of(outcome),
    )


def _transfer_row(
    command: Executable, terms: TransferTerms, status: TransferStatus, last_error: str | None = None
) -> TransferRow:
    bucket = bucket_of(terms.from_wallet_id)
    return TransferRow(bucket, terms, status, last_error, command.request_id, command.api_audit_id)


def _refusal_of(outcome: FinalOutcome | None) -> str | None:
    return outcome.reason.value if isinstance(outcome, Rejected) else None


def _digested(row: OperationRow) -> DigestedOperation | None:
    if row.answer is None:
        return None
    return DigestedOperation(
        row.bucket,
        row.wallet_id,
        row.request_id,
        row.kind,
        row.fingerprint,
        row.refusal is None,
        row.answer.status,
        row.refusal,
        row.answer.body,
        row.api_audit_id,
    )


EVENTS_PER_STATEMENT: Final = 300
"""So that PostgreSQL stores some while the rows of the next are being built."""

SQL: Final = load_statements("wallet.ledger", "ledger.sql")


def _sorted_keys(wallet_ids: Iterable[WalletId]) -> tuple[str, str]:
    keys = sorted((bucket_of(wallet_id), wallet_id) for wallet_id in set(wallet_ids))
    return array_of([bucket for bucket, _ in keys]), array_of_texts([wallet_id for _, wallet_id in keys])


async def insert_wallets(connection: AnyConnection, wallet_ids: Iterable[WalletId]) -> list[WalletId]:
    """Make rows to lock for wallets that a credit may create; returns those inserted now."""
    buckets, ids = _sorted_keys(wallet_ids)
    rows = await connection.fetch(SQL.insert_wallets, buckets, ids, DEFAULT_CURRENCY)
    return [row["wallet_id"] for row in rows]


async def lock_wallets(
    connection: AnyConnection, wallet_ids: Iterable[WalletId], *, skip_locked: bool
) -> dict[WalletId, Wallet]:
    """Lock the rows in key order; those without a row are missing, and with skip_locked those held by others too."""
    buckets, ids = _sorted_keys(wallet_ids)
    rows = await connection.fetch(SQL.lock_free_wallets if skip_locked else SQL.lock_wallets, buckets, ids)
    return {
        row["wallet_id"]: Wallet(
            row["wallet_id"], row["currency"], row["balance"], row["version"], row["last_event_at"]
        )
        for row in rows
    }


async def existing_wallets(connection: AnyConnection, wallet_ids: Iterable[WalletId]) -> set[WalletId]:
    """Which of these have a row, locked by anyone or not."""
    rows = await connection.fetch(SQL.existing_wallets, *_sorted_keys(wallet_ids))
    return {row["wallet_id"] for row in rows}


@dataclass(frozen=True, slots=True)
class LoadedOperations:
    """What is stored for the keys of a batch, the answers of the final ones, and what the same statement tells."""

    now: datetime
    """PostgreSQL's clock."""
    operations: dict[OperationKey, StoredOperation]
    answers: dict[OperationKey, Answer]
    has_debited: bool
    """Whether any stepwise transfer, of whatever wallets, has been debited and not ended."""


async def load_operations(connection: AnyConnection, keys: Iterable[OperationKey]) -> LoadedOperations:
    """Read what is stored for the keys."""
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
    """What these wallets have sent in stepwise transfers that have not ended; nothing for those without any."""
    rows = await connection.fetch(SQL.load_refundable, array_of_texts(sorted(wallet_ids)))
    return {row["from_wallet_id"]: row["amount"] for row in rows}


async def load_credits(connection: AnyConnection, terms: Sequence[TransferTerms]) -> dict[TransferId, CreditOutcome]:
    """The receivers' words that were given already."""
    rows = await connection.fetch(
        SQL.load_credits,
        array_of([bucket_of(each.to_wallet_id) for each in terms]),
        array_of_texts([each.to_wallet_id for each in terms]),
        [each.transfer_id for each in terms],
    )
    return {row["transfer_id"]: credit_outcome_of(row) for row in rows}


def credit_outcome_of(row: Any) -> CreditOutcome:
    """A transfer_credits row as the receiver's word."""
    if row["outcome"] == "credited":
        return CreditAccepted(row["balance_after"], row["event_version"])
    return CreditRefused(row["reason"])


async def load_unfinished(connection: AnyConnection, terms: Sequence[TransferTerms]) -> set[TransferId]:
    """Which of these transfers are still debited."""
    rows = await connection.fetch(
        SQL.load_unfinished,
        array_of([bucket_of(each.from_wallet_id) for each in terms]),
        array_of_texts([each.from_wallet_id for each in terms]),
        [each.transfer_id for each in terms],
    )
    return {row["transfer_id"] for row in rows}


async def insert_events(writing: Writing, recorded: list[RecordedEvent], batch_id: BatchId) -> list[bytes]:
    """Store the events, a chunk at a time; returns them in ordinal order as the digest covers them."""
    placed = [(bucket_of(event.wallet_id), event.wallet_id, event.version, i) for i, event in enumerate(recorded)]
    ordinals = [ordinal for _, _, _, ordinal in sorted(placed)]
    spelled = [b""] * len(recorded)
    for start in range(0, len(ordinals), EVENTS_PER_STATEMENT):
        chunk = ordinals[start : start + EVENTS_PER_STATEMENT]
        rows = [event_row_of(recorded[ordinal]) for ordinal in chunk]
        await _insert_chunk(writing, chunk, rows, batch_id)
        for ordinal, row in zip(chunk, rows, strict=True):
            spelled[ordinal] = spell_event(row)
    return spelled


async def _insert_chunk(writing: Writing, ordinals: list[int], rows: list[DigestedEvent], batch_id: BatchId) -> None:
    await writing.execute(
        SQL.insert_events,
        array_of([row.bucket for row in rows]),
        array_of_texts([row.wallet_id for row in rows]),
        array_of([row.version for row in rows]),
        [row.event_id for row in rows],
        array_of_texts([row.type for row in rows]),
        array_of([row.amount for row in rows]),
        array_of([row.balance_after for row in rows]),
        [row.payload.decode() for row in rows],
        [row.transfer_id for row in rows],
        array_of(ordinals),
        [row.api_audit_id for row in rows],
        [row.occurred_at for row in rows],
        SCHEMA_VERSION,
        batch_id,
    )


async def write_rows(writing: Writing, rows: BatchRows, batch_id: BatchId, now: datetime) -> None:
    """Operations, transfers and credits; a count that is not what was sent will be a WriteConflict."""
    if rows.operations:
        await _insert_operations(writing, rows.operations, batch_id)
    if rows.completed:
        await _complete_operations(writing, rows.completed, batch_id)
    if rows.transfers:
        await _insert_transfers(writing, rows.transfers, now)
    if rows.ended:
        await _end_transfers(writing, rows.ended, now)
    if rows.credits:
        await _insert_credits(writing, rows.credits, now)


async def _insert_operations(writing: Writing, rows: list[OperationRow], batch_id: BatchId) -> None:
    answers = [row.answer for row in rows]
    await writing.execute(
        SQL.insert_operations,
        array_of([row.bucket for row in rows]),
        array_of_texts([row.wallet_id for row in rows]),
        array_of_texts([row.request_id for row in rows]),
        array_of_texts([row.kind for row in rows]),
        array_of_texts([row.fingerprint for row in rows]),
        array_of_texts(["pending" if answer is None else "final" for answer in answers]),
        array_of([None if answer is None else answer.success for answer in answers]),
        array_of([None if answer is None else answer.status for answer in answers]),
        array_of_texts_or_nulls([row.refusal for row in rows]),
        [None if answer is None else answer.body for answer in answers],
        batch_id,
        [row.api_audit_id for row in rows],
    )


async def _complete_operations(writing: Writing, rows: list[OperationRow], batch_id: BatchId) -> None:
    answers = [row.answer for row in rows if row.answer is not None]
    assert len(answers) == len(rows)
    await writing.execute(
        SQL.complete_operations,
        array_of([row.bucket for row in rows]),
        array_of_texts([row.wallet_id for row in rows]),
        array_of_texts([row.request_id for row in rows]),
        array_of([answer.success for answer in answers]),
        array_of([answer.status for answer in answers]),
        array_of_texts_or_nulls([row.refusal for row in rows]),
        [answer.body for answer in answers],
        batch_id,
        row_count=len(rows),
    )


async def _insert_transfers(writing: Writing, rows: list[TransferRow], now: datetime) -> None:
    await writing.execute(
        SQL.insert_transfers,
        array_of([row.bucket for row in rows]),
        array_of_texts([row.terms.from_wallet_id for row in rows]),
        [row.terms.transfer_id for row in rows],
        array_of_texts([row.terms.to_wallet_id for row in rows]),
        array_of([row.terms.amount for row in rows]),
        array_of_texts([row.terms.currency for row in rows]),
        array_of_texts([row.status for row in rows]),
        array_of_texts([row.request_id for row in rows]),
        [row.api_audit_id for row in rows],
        now,
    )


async def _end_transfers(writing: Writing, rows: list[TransferRow], now: datetime) -> None:
    await writing.execute(
        SQL.end_transfers,
        array_of([row.bucket for row in rows]),
        array_of_texts([row.terms.from_wallet_id for row in rows]),
        [row.terms.transfer_id for row in rows],
        array_of_texts([row.status for row in rows]),
        array_of_texts_or_nulls([row.last_error for row in rows]),
        now,
        row_count=len(rows),
    )


async def _insert_credits(writing: Writing, rows: list[CreditRow], now: datetime) -> None:
    accepted = [row.outcome if isinstance(row.outcome, CreditAccepted) else None for row in rows]
    await writing.execute(
        SQL.insert_credits,
        array_of([row.bucket for row in rows]),
        array_of_texts([row.terms.to_wallet_id for row in rows]),
        [row.terms.transfer_id for row in rows],
        array_of_texts(["refused" if isinstance(row.outcome, CreditRefused) else "credited" for row in rows]),
        array_of_texts_or_nulls(
            [row.outcome.reason if isinstance(row.outcome, CreditRefused) else None for row in rows]
        ),
        array_of([None if credit is None else credit.version for credit in accepted]),
        array_of([None if credit is None else credit.balance_after for credit in accepted]),
        now,
    )


async def update_wallets(writing: Writing, before: dict[WalletId, Wallet], after: list[Wallet]) -> None:
    """Store the new states over exactly the versions that were locked; raises WriteConflict otherwise."""
    keyed = sorted(((bucket_of(wallet.wallet_id), wallet) for wallet in after), key=lambda k: (k[0], k[1].wallet_id))
    wallets = [wallet for _, wallet in keyed]
    await writing.execute(
        SQL.update_wallets,
        array_of([bucket for bucket, _ in keyed]),
        array_of_texts([wallet.wallet_id for wallet in wallets]),
        array_of_texts([wallet.currency for wallet in wallets]),
        array_of([wallet.balance for wallet in wallets]),
        array_of([wallet.version for wallet in wallets]),
        [wallet.last_event_at for wallet in wallets],
        array_of([before[wallet.wallet_id].version for wallet in wallets]),
        row_count=len(wallets),
    )


async def delete_unmade_wallets(connection: AnyConnection, wallet_ids: Iterable[WalletId]) -> None:
    """Take back the rows that were inserted to be locked and that no event made real."""
    await connection.execute(SQL.delete_unmade_wallets, *_sorted_keys(wallet_ids))


async def insert_journal_row(writing: Writing, batch_id: BatchId, event_count: int, digest: bytes) -> None:
    """The batch's place in line: its seq is drawn here, after the locks."""
    await writing.execute(SQL.insert_journal_row, batch_id, event_count, digest)
