"""A batch: commands folded in order over the locked states, each with the result it would have had alone.

The rule that everything else leans on: a batch gives exactly what its commands would give one at a time,
in order. A refusal is the outcome of its command alone and never touches the others.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import assert_never

from wallet.domain.commands import (
    Command,
    ConcludeTransfer,
    CreditTransfer,
    Deposit,
    OperationKey,
    SagaStep,
    Transfer,
    Withdraw,
    fingerprint_of,
    key_of,
)
from wallet.domain.events import Event, RecordedEvent, TransferTerms
from wallet.domain.identifiers import ApiAuditId, RequestId, TransferId, WalletId
from wallet.domain.money import ZERO, add, subtract
from wallet.domain.outcomes import FinalOutcome, KeyReused, Moved, Transferred
from wallet.domain.rejections import Rejected, Rejection
from wallet.domain.transfer import CreditAccepted, CreditOutcome, CreditRefused, begin, conclude, receive
from wallet.domain.values import Value
from wallet.domain.wallet import Wallet, decide_deposit, decide_withdraw, initial, record


class StoredOperation(Value, frozen=True):
    """What is remembered of a key: which request it belongs to, and whether its outcome is final."""

    fingerprint: str
    api_audit_id: ApiAuditId
    is_final: bool


class Decided(Value, frozen=True):
    """The command has its outcome now; it is to be stored under its key."""

    outcome: FinalOutcome


class Begun(Value, frozen=True):
    """A stepwise transfer was debited; the outcome of its key is pending."""

    terms: TransferTerms


class Replayed(Value, frozen=True):
    """The key has its outcome already: the answer is the stored one.

    `is_own` if this very request (by its audit id) stored it: its first answer, lost on the way.
    """

    key: OperationKey
    is_own: bool


class StillPending(Value, frozen=True):
    """The key belongs to this request, whose transfer has not ended yet; `is_own` as in Replayed."""

    key: OperationKey
    is_own: bool


class Credited(Value, frozen=True):
    """The receiver's word on a stepwise transfer; `is_new` if it was given just now."""

    outcome: CreditOutcome
    is_new: bool


class Concluded(Value, frozen=True):
    """A stepwise transfer ended just now: its key has its outcome."""

    outcome: FinalOutcome


Decision = Decided | Begun | Replayed | StillPending | KeyReused | Credited | Concluded


@dataclass(slots=True)
class BatchState:
    """What was locked and loaded for a batch; `decide_batch` folds it forward in place.

    `wallets` may lack wallets that have no row; `operations` holds the keys' stored operations;
    `credits` the receivers' words on stepwise transfers; `unfinished` the transfers still debited; `refundable` what
    each wallet has sent in stepwise transfers that have not ended, for the wallets that have any.
    """

    now: datetime
    wallets: dict[WalletId, Wallet]
    operations: dict[OperationKey, StoredOperation]
    credits: dict[TransferId, CreditOutcome] = field(default_factory=dict)
    unfinished: set[TransferId] = field(default_factory=set)
    refundable: dict[WalletId, Decimal] = field(default_factory=dict)
    stepwise: bool = False
    events: list[RecordedEvent] = field(default_factory=list)

    def wallet(self, wallet_id: WalletId) -> Wallet:
        """The state as folded so far."""
        return self.wallets.get(wallet_id) or initial(wallet_id)

    def refundable_to(self, wallet_id: WalletId) -> Decimal:
        """What may come back to the wallet, as folded so far."""
        return self.refundable.get(wallet_id, ZERO)

    def append(
        self, wallet_id: WalletId, events: Iterable[Event], *, request_id: RequestId, api_audit_id: ApiAuditId
    ) -> Wallet:
        """Record events in the wallet's sequence and return its state after them."""
        wallet = self.wallet(wallet_id)
        for event in events:
            wallet, recorded = record(wallet, event, self.now, request_id=request_id, api_audit_id=api_audit_id)
            self.events.append(recorded)
        self.wallets[wallet_id] = wallet
        return wallet


def decide_batch(commands: Iterable[Command | SagaStep], state: BatchState) -> list[Decision]:
    """One decision per command, in order; the events are in `state.events`, the states in `state.wallets`."""
    return [_decide(command, state) for command in commands]


def _decide(command: Command | SagaStep, state: BatchState) -> Decision:
    match command:
        case CreditTransfer():
            return _credit(command, state)
        case ConcludeTransfer():
            return _conclude(command, state)
        case _:
            return _decide_once(command, state)


def _decide_once(command: Command, state: BatchState) -> Decision:
    key, fingerprint = key_of(command), fingerprint_of(command)
    stored = state.operations.get(key)
    if stored is not None:
        if stored.fingerprint != fingerprint:
            return KeyReused(stored.fingerprint)
        is_own = stored.api_audit_id == command.api_audit_id
        return Replayed(key, is_own) if stored.is_final else StillPending(key, is_own)
    decision = _decide_new(command, state)
    state.operations[key] = StoredOperation(fingerprint, command.api_audit_id, isinstance(decision, Decided))
    return decision


def _decide_new(command: Command, state: BatchState) -> Decided | Begun:
    match command:
        case Deposit():
            refundable = state.refundable_to(command.wallet_id)
            decided = decide_deposit(state.wallet(command.wallet_id), command.amount, refundable=refundable)
            return Decided(_move(command, decided, state))
        case Withdraw():
            return Decided(_move(command, decide_withdraw(state.wallet(command.wallet_id), command.amount), state))
        case Transfer():
            return _begin(command, state) if state.stepwise else Decided(_transfer(command, state))
        case _:
            assert_never(command)


def _move(command: Deposit | Withdraw, decided: tuple[Event, ...] | Rejected, state: BatchState) -> FinalOutcome:
    if isinstance(decided, Rejected):
        return decided
    existed = state.wallet(command.wallet_id).exists
    after = state.append(command.wallet_id, decided, request_id=command.request_id, api_audit_id=command.api_audit_id)
    return Moved(after.balance, not existed)


def _terms(command: Transfer, state: BatchState) -> TransferTerms:
    currency = state.wallet(command.wallet_id).currency
    return TransferTerms(command.transfer_id, command.wallet_id, command.to_wallet_id, command.amount, currency)


def _transfer(command: Transfer, state: BatchState) -> FinalOutcome:
    """All three steps in one transaction: a credit that is impossible refuses the whole before any money moves."""
    terms = _terms(command, state)
    begun = begin(state.wallet(terms.from_wallet_id), terms)
    if isinstance(begun, Rejected):
        return begun
    received = _received(terms, state)
    if isinstance(received, Rejected):
        return received
    state.append(terms.from_wallet_id, begun, request_id=command.request_id, api_audit_id=command.api_audit_id)
    receiver = state.append(
        terms.to_wallet_id, received, request_id=command.request_id, api_audit_id=command.api_audit_id
    )
    credit = CreditAccepted(receiver.balance, receiver.version)
    sender = state.append(
        terms.from_wallet_id,
        conclude(terms, credit),
        request_id=command.request_id,
        api_audit_id=command.api_audit_id,
    )
    return Transferred(terms, sender.balance, receiver.balance)


def _received(terms: TransferTerms, state: BatchState) -> tuple[Event, ...] | Rejected:
    refundable = state.refundable_to(terms.to_wallet_id)
    return receive(state.wallet(terms.to_wallet_id), terms, refundable=refundable)


def _begin(command: Transfer, state: BatchState) -> Decided | Begun:
    terms = _terms(command, state)
    begun = begin(state.wallet(terms.from_wallet_id), terms)
    if isinstance(begun, Rejected):
        return Decided(begun)
    state.append(terms.from_wallet_id, begun, request_id=command.request_id, api_audit_id=command.api_audit_id)
    state.unfinished.add(terms.transfer_id)
    state.refundable[terms.from_wallet_id] = add(state.refundable_to(terms.from_wallet_id), terms.amount)
    return Begun(terms)


def _credit(command: CreditTransfer, state: BatchState) -> Credited:
    """The first word stands: two runners of one transfer cannot disagree."""
    terms = command.terms
    known = state.credits.get(terms.transfer_id)
    if known is not None:
        return Credited(known, is_new=False)
    received = _received(terms, state)
    outcome: CreditOutcome
    if isinstance(received, Rejected):
        outcome = CreditRefused(received.detail)
    else:
        after = state.append(
            terms.to_wallet_id, received, request_id=command.request_id, api_audit_id=command.api_audit_id
        )
        outcome = CreditAccepted(after.balance, after.version)
    state.credits[terms.transfer_id] = outcome
    return Credited(outcome, is_new=True)


def _conclude(command: ConcludeTransfer, state: BatchState) -> Concluded | Replayed:
    terms, key = command.terms, key_of(command)
    if terms.transfer_id not in state.unfinished:
        return Replayed(key, is_own=False)
    sender = state.append(
        terms.from_wallet_id,
        conclude(terms, command.credit),
        request_id=command.request_id,
        api_audit_id=command.api_audit_id,
    )
    state.unfinished.discard(terms.transfer_id)
    state.refundable[terms.from_wallet_id] = subtract(state.refundable_to(terms.from_wallet_id), terms.amount)
    state.operations[key] = StoredOperation(
        state.operations[key].fingerprint, state.operations[key].api_audit_id, is_final=True
    )
    match command.credit:
        case CreditAccepted():
            return Concluded(Transferred(terms, sender.balance, command.credit.balance_after))
        case CreditRefused():
            detail = f"The transfer was taken back and the money returned. {command.credit.reason}"
            return Concluded(Rejected(Rejection.TRANSFER_FAILED, detail))
        case _:
            assert_never(command.credit)
