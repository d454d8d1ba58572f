"""What a batch writes, as the rows of each table in primary-key order (unsorted ones deadlock)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import assert_never

from wallet.domain.batch import (
    BatchState,
    Begun,
    Concluded,
    Credited,
    Decided,
    Executable,
    Replayed,
    StillPending,
)
from wallet.domain.events import RecordedEvent, TransferTerms, payload_of, type_of
from wallet.domain.identifiers import ApiAuditId, EventId, RequestId, WalletId, bucket_of
from wallet.domain.outcomes import FinalOutcome, KeyReused, Rejected, Transferred
from wallet.domain.transfer import CreditOutcome, TransferStatus
from wallet.domain.values import Value
from wallet.ledger.answers import Answer
from wallet.ledger.requests import Completed, Request
from wallet.postgres.uuids import uuid7
from wallet.wire.digest import DigestedEvent, DigestedOperation, encode_payload


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
