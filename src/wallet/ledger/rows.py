"""What a batch writes, as the rows of each table in primary-key order (unsorted ones deadlock)."""

from dataclasses import dataclass, field

from uuid_utils.compat import uuid7

from wallet.domain.batch import BatchState, Begun, Concluded, Credited, Decided, Decision
from wallet.domain.commands import (
    Command,
    ConcludeTransfer,
    CreditTransfer,
    SagaStep,
    fingerprint_of,
    key_of,
    kind_of,
)
from wallet.domain.digest import DigestedEvent, DigestedOperation, digest_of
from wallet.domain.events import RecordedEvent, TransferTerms, amount_of, payload_of, transfer_id_of, type_of
from wallet.domain.identifiers import ApiAuditId, BatchId, EventId, RequestId, WalletId, bucket_of
from wallet.domain.outcomes import FinalOutcome, Transferred
from wallet.domain.rejections import Rejected
from wallet.domain.transfer import CreditAccepted, CreditOutcome
from wallet.ledger.answers import Answer


@dataclass(frozen=True, slots=True)
class OperationRow:
    """A row of operations; `answer` is None while the transfer of a pending one has not ended."""

    bucket: int
    wallet_id: WalletId
    request_id: RequestId
    kind: str
    fingerprint: str
    api_audit_id: ApiAuditId
    answer: Answer | None
    refusal: str | None


@dataclass(frozen=True, slots=True)
class TransferRow:
    """A row of transfers, new or ended now."""

    bucket: int
    terms: TransferTerms
    status: str
    last_error: str | None
    request_id: RequestId
    api_audit_id: ApiAuditId


@dataclass(frozen=True, slots=True)
class CreditRow:
    """A row of transfer_credits: the receiver's word."""

    bucket: int
    terms: TransferTerms
    outcome: CreditOutcome


@dataclass(slots=True)
class BatchRows:
    """Everything a batch stores besides audit rows and wallet states."""

    batch_id: BatchId
    events: list[DigestedEvent]
    operations: list[OperationRow] = field(default_factory=list)
    settled: list[OperationRow] = field(default_factory=list)
    transfers: list[TransferRow] = field(default_factory=list)
    ended: list[TransferRow] = field(default_factory=list)
    credits: list[CreditRow] = field(default_factory=list)

    @property
    def belongs_in_journal(self) -> bool:
        """Whether the batch stored an event or an outcome; a replay, or a receiver's refusal alone, did not."""
        return bool(self.events or self.operations or self.settled)

    def digest(self) -> bytes:
        """The digest over the events in ordinal order and the operations that got their final outcome."""
        return digest_of(self.events, filter(None, map(_digested, (*self.operations, *self.settled))))


def rows_of(
    commands: list[Command | SagaStep],
    decisions: list[Decision],
    answers: list[Answer | None],
    state: BatchState,
) -> BatchRows:
    """Turn a batch's decisions into rows. `answers` holds the rendered answer of each decision that has one."""
    rows = BatchRows(BatchId(uuid7()), [_event_row(recorded) for recorded in state.events])
    for command, decision, answer in zip(commands, decisions, answers, strict=True):
        match decision:
            case Decided():
                _add_decided(rows, command, decision.outcome, answer)
            case Begun():
                _add_begun(rows, command, decision.terms)
            case Credited(is_new=True):
                assert isinstance(command, CreditTransfer)
                bucket = bucket_of(command.terms.to_wallet_id)
                rows.credits.append(CreditRow(bucket, command.terms, decision.outcome))
            case Concluded():
                assert isinstance(command, ConcludeTransfer)
                _add_concluded(rows, command, decision.outcome, answer, state)
            case _:
                pass
    rows.operations.sort(key=lambda row: (row.bucket, row.wallet_id, row.request_id))
    rows.settled.sort(key=lambda row: (row.bucket, row.wallet_id, row.request_id))
    rows.transfers.sort(key=lambda row: (row.bucket, row.terms.from_wallet_id, row.terms.transfer_id))
    rows.ended.sort(key=lambda row: (row.bucket, row.terms.from_wallet_id, row.terms.transfer_id))
    rows.credits.sort(key=lambda row: (row.bucket, row.terms.to_wallet_id, row.terms.transfer_id))
    return rows


def _event_row(recorded: RecordedEvent) -> DigestedEvent:
    event = recorded.event
    return DigestedEvent(
        bucket_of(recorded.wallet_id),
        recorded.wallet_id,
        recorded.version,
        EventId(uuid7()),
        type_of(event),
        recorded.occurred_at,
        amount_of(event),
        recorded.balance_after,
        transfer_id_of(event),
        recorded.api_audit_id,
        payload_of(recorded),
    )


def _add_decided(rows: BatchRows, command: Command | SagaStep, outcome: FinalOutcome, answer: Answer | None) -> None:
    rows.operations.append(_operation_row(command, answer, outcome))
    if isinstance(outcome, Transferred):
        rows.transfers.append(_transfer_row(command, outcome.terms, "completed", None))


def _add_begun(rows: BatchRows, command: Command | SagaStep, terms: TransferTerms) -> None:
    rows.operations.append(_operation_row(command, None, None))
    rows.transfers.append(_transfer_row(command, terms, "debited", None))


def _add_concluded(
    rows: BatchRows,
    command: ConcludeTransfer,
    outcome: FinalOutcome,
    answer: Answer | None,
    state: BatchState,
) -> None:
    terms, stored = command.terms, state.operations[key_of(command)]
    rows.settled.append(
        OperationRow(
            bucket_of(terms.from_wallet_id),
            terms.from_wallet_id,
            command.request_id,
            "transfer",
            stored.fingerprint,
            stored.api_audit_id,
            answer,
            _refusal_of(outcome),
        )
    )
    if isinstance(command.credit, CreditAccepted):
        rows.ended.append(_transfer_row(command, terms, "completed", None))
    else:
        rows.ended.append(_transfer_row(command, terms, "failed", command.credit.reason))


def _operation_row(command: Command | SagaStep, answer: Answer | None, outcome: FinalOutcome | None) -> OperationRow:
    assert not isinstance(command, CreditTransfer | ConcludeTransfer)
    return OperationRow(
        bucket_of(command.wallet_id),
        command.wallet_id,
        command.request_id,
        kind_of(command),
        fingerprint_of(command),
        command.api_audit_id,
        answer,
        _refusal_of(outcome),
    )


def _transfer_row(
    command: Command | SagaStep, terms: TransferTerms, status: str, last_error: str | None
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
