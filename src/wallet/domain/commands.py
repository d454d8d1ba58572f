"""The commands: what a client asks for, and how each command is decided.

A command is an immutable value that the edge creates with every id that it will need: its key, the id of its trail row
and its transfer id. So a command that runs a second time (after a deadlock, or a COMMIT whose answer was lost) is the
same command. The ledger does not depend on the kinds of commands: it executes every object that has the methods of
wallet.domain.batch.Executable.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar, Final, Self, assert_never, get_args

from wallet.domain.batch import (
    BatchState,
    Begun,
    Concluded,
    Credited,
    Decided,
    Decision,
    Executable,
    Replayed,
    StillPending,
    StoredOperation,
)
from wallet.domain.events import Event, FundsDeposited, FundsWithdrawn, TransferCompleted, TransferTerms
from wallet.domain.identifiers import ID_PATTERN, ApiAuditId, OperationKey, RequestId, TransferId, WalletId
from wallet.domain.money import Value, add, format_money, subtract
from wallet.domain.outcomes import FinalOutcome, KeyReused, Moved, Rejected, Rejection, Transferred
from wallet.domain.transfer import (
    CreditAccepted,
    CreditOutcome,
    CreditRefused,
    TransferStatus,
    begin,
    conclude,
    receive,
)
from wallet.domain.wallet import decide_deposit, decide_withdraw


class _Keyed(Value, frozen=True, kw_only=True):
    """A command of a client: a key at a wallet, and an amount."""

    kind: ClassVar[str]
    success: ClassVar[type[Event]]
    """The type of the event that records its success, in the batch that decided its outcome."""
    counterparty_pattern: ClassVar = ""
    """The pattern that the last part of its fingerprint matches."""
    receives: ClassVar = None
    concludes: ClassVar = None

    wallet_id: WalletId
    request_id: RequestId
    api_audit_id: ApiAuditId
    amount: Decimal

    @classmethod
    def recalled(cls, payload: Mapping[str, Any], transfer_id: TransferId | None, **common: Any) -> Self:
        """Rebuilds the command from the event that recorded its success. `common` has the fields of every command."""
        return cls(**common)

    @property
    def key(self) -> OperationKey:
        """See Executable."""
        # This property is read very often, and the constructor of OperationKey would double its cost.
        return tuple.__new__(OperationKey, (self.wallet_id, self.request_id))

    @property
    def fingerprint(self) -> str:
        """The operation, the parsed amount and the counterparty: two requests with the same text are the same request.

        The text is readable, so that a person can compare it. An id may contain colons; the counterparty is
        the last part, so they cannot make the texts of two different requests equal.
        """
        return f"{self.kind}:{format_money(self.amount)}:"

    @property
    def wallet_ids(self) -> tuple[WalletId, ...]:
        """See Executable."""
        return (self.wallet_id,)

    def locked(self, *, stepwise: bool) -> tuple[WalletId, ...]:
        """See Executable."""
        return (self.wallet_id,)


class Deposit(_Keyed, frozen=True, kw_only=True):
    """Add an amount to a wallet, which is created if it does not exist."""

    kind: ClassVar = "deposit"
    success: ClassVar = FundsDeposited

    def credited(self, *, stepwise: bool) -> tuple[WalletId, ...]:
        """See Executable."""
        return (self.wallet_id,)

    def decide(self, state: BatchState) -> Decision:
        """See Executable."""
        return _decide_once(self, state, self._execute)

    def _execute(self, state: BatchState) -> Decided:
        refundable = state.refundable_to(self.wallet_id)
        decided = decide_deposit(state.wallet(self.wallet_id), self.amount, refundable=refundable)
        return Decided(_move(self, decided, state))


class Withdraw(_Keyed, frozen=True, kw_only=True):
    """Take an amount from a wallet."""

    kind: ClassVar = "withdraw"
    success: ClassVar = FundsWithdrawn

    def credited(self, *, stepwise: bool) -> tuple[WalletId, ...]:
        """See Executable."""
        return ()

    def decide(self, state: BatchState) -> Decision:
        """See Executable."""
        return _decide_once(self, state, self._execute)

    def _execute(self, state: BatchState) -> Decided:
        return Decided(_move(self, decide_withdraw(state.wallet(self.wallet_id), self.amount), state))


class Transfer(_Keyed, frozen=True, kw_only=True):
    """Move an amount from a wallet (wallet_id) to another, which is created if it does not exist."""

    kind: ClassVar = "transfer"
    success: ClassVar = TransferCompleted
    counterparty_pattern: ClassVar = ID_PATTERN

    to_wallet_id: WalletId
    transfer_id: TransferId

    @classmethod
    def recalled(cls, payload: Mapping[str, Any], transfer_id: TransferId | None, **common: Any) -> Self:
        """See _Keyed."""
        assert transfer_id is not None
        return cls(to_wallet_id=WalletId(str(payload.get("toWalletId"))), transfer_id=transfer_id, **common)

    @property
    def fingerprint(self) -> str:
        """See _Keyed."""
        return f"{self.kind}:{format_money(self.amount)}:{self.to_wallet_id}"

    @property
    def wallet_ids(self) -> tuple[WalletId, ...]:
        """See Executable."""
        return (self.wallet_id, self.to_wallet_id)

    def locked(self, *, stepwise: bool) -> tuple[WalletId, ...]:
        """See Executable."""
        return (self.wallet_id,) if stepwise else (self.wallet_id, self.to_wallet_id)

    def credited(self, *, stepwise: bool) -> tuple[WalletId, ...]:
        """See Executable."""
        return () if stepwise else (self.to_wallet_id,)

    def decide(self, state: BatchState) -> Decision:
        """See Executable."""
        return _decide_once(self, state, self._begin if state.stepwise else self._execute)

    def _terms(self, state: BatchState) -> TransferTerms:
        currency = state.wallet(self.wallet_id).currency
        return TransferTerms(self.transfer_id, self.wallet_id, self.to_wallet_id, self.amount, currency)

    def _execute(self, state: BatchState) -> Decided:
        """Run all three steps in one transaction. If the credit is refused, the transfer is refused; no money moves."""
        terms = self._terms(state)
        begun = begin(state.wallet(terms.from_wallet_id), terms)
        if isinstance(begun, Rejected):
            return Decided(begun)
        received = _received(terms, state)
        if isinstance(received, Rejected):
            return Decided(received)
        append = partial(state.append, request_id=self.request_id, api_audit_id=self.api_audit_id)
        append(terms.from_wallet_id, begun)
        receiver = append(terms.to_wallet_id, received)
        credit = CreditAccepted(receiver.balance, receiver.version)
        sender = append(terms.from_wallet_id, conclude(terms, credit))
        return Decided(Transferred(terms, sender.balance, receiver.balance))

    def _begin(self, state: BatchState) -> Decided | Begun:
        terms = self._terms(state)
        begun = begin(state.wallet(terms.from_wallet_id), terms)
        if isinstance(begun, Rejected):
            return Decided(begun)
        state.append(terms.from_wallet_id, begun, request_id=self.request_id, api_audit_id=self.api_audit_id)
        state.unfinished.add(terms.transfer_id)
        state.refundable[terms.from_wallet_id] = add(state.refundable_to(terms.from_wallet_id), terms.amount)
        return Begun(terms)


Command = Deposit | Withdraw | Transfer
"""The commands that clients send. To add a kind, write a class and add it here."""

COMMANDS: Final[Mapping[str, type[Command]]] = {each.kind: each for each in get_args(Command)}
"""The class of each kind of command."""


class _Step(Value, frozen=True, kw_only=True):
    """A step of a stepwise transfer, which the process that drives the transfer submits."""

    kind: ClassVar = Transfer.kind
    fingerprint: ClassVar = ""

    terms: TransferTerms
    request_id: RequestId
    api_audit_id: ApiAuditId

    @property
    def key(self) -> OperationKey:
        """See Executable."""
        return OperationKey(self.terms.from_wallet_id, self.request_id)


class CreditTransfer(_Step, frozen=True, kw_only=True):
    """Step 2 of a stepwise transfer, at the receiver."""

    concludes: ClassVar = None

    @property
    def receives(self) -> TransferTerms:
        """See Executable."""
        return self.terms

    @property
    def wallet_ids(self) -> tuple[WalletId, ...]:
        """See Executable."""
        return (self.terms.to_wallet_id,)

    def locked(self, *, stepwise: bool) -> tuple[WalletId, ...]:
        """See Executable."""
        return (self.terms.to_wallet_id,)

    def credited(self, *, stepwise: bool) -> tuple[WalletId, ...]:
        """See Executable."""
        return (self.terms.to_wallet_id,)

    def decide(self, state: BatchState) -> Credited:
        """Decide, or return the stored decision, so that two processes that drive one transfer cannot disagree."""
        terms = self.terms
        known = state.credits.get(terms.transfer_id)
        if known is not None:
            return Credited(terms, known, is_new=False)
        received = _received(terms, state)
        outcome: CreditOutcome
        if isinstance(received, Rejected):
            outcome = CreditRefused(received.detail)
        else:
            after = state.append(
                terms.to_wallet_id, received, request_id=self.request_id, api_audit_id=self.api_audit_id
            )
            outcome = CreditAccepted(after.balance, after.version)
        state.credits[terms.transfer_id] = outcome
        return Credited(terms, outcome, is_new=True)


class ConcludeTransfer(_Step, frozen=True, kw_only=True):
    """Step 3 of a stepwise transfer, at the sender, after the receiver's final decision."""

    receives: ClassVar = None

    credit: CreditOutcome

    @property
    def concludes(self) -> TransferTerms:
        """See Executable."""
        return self.terms

    @property
    def wallet_ids(self) -> tuple[WalletId, ...]:
        """See Executable."""
        return (self.terms.from_wallet_id,)

    def locked(self, *, stepwise: bool) -> tuple[WalletId, ...]:
        """See Executable."""
        return (self.terms.from_wallet_id,)

    def credited(self, *, stepwise: bool) -> tuple[WalletId, ...]:
        """See Executable."""
        return ()

    def decide(self, state: BatchState) -> Concluded | Replayed:
        """See Executable."""
        terms, key = self.terms, self.key
        if terms.transfer_id not in state.unfinished:
            return Replayed(key, is_own=False)
        sender = state.append(
            terms.from_wallet_id,
            conclude(terms, self.credit),
            request_id=self.request_id,
            api_audit_id=self.api_audit_id,
        )
        state.unfinished.discard(terms.transfer_id)
        state.refundable[terms.from_wallet_id] = subtract(state.refundable_to(terms.from_wallet_id), terms.amount)
        stored = state.operations[key]
        state.operations[key] = StoredOperation(stored.fingerprint, stored.api_audit_id, is_final=True)
        match self.credit:
            case CreditAccepted():
                transferred = Transferred(terms, sender.balance, self.credit.balance_after)
                return Concluded(terms, transferred, TransferStatus.COMPLETED, None)
            case CreditRefused(reason):
                detail = f"The transfer was taken back and the money returned. {reason}"
                return Concluded(terms, Rejected(Rejection.TRANSFER_FAILED, detail), TransferStatus.FAILED, reason)
            case _:
                assert_never(self.credit)


def _decide_once(command: Executable, state: BatchState, execute: Callable[[BatchState], Decided | Begun]) -> Decision:
    """Execute a command whose key is new; otherwise return what is stored for the key."""
    key, fingerprint = command.key, command.fingerprint
    stored = state.operations.get(key)
    if stored is not None:
        if stored.fingerprint != fingerprint:
            return KeyReused(stored.fingerprint)
        is_own = stored.api_audit_id == command.api_audit_id
        return Replayed(key, is_own) if stored.is_final else StillPending(key, is_own)
    decision = execute(state)
    state.operations[key] = StoredOperation(fingerprint, command.api_audit_id, isinstance(decision, Decided))
    return decision


def _move(command: _Keyed, decided: tuple[Event, ...] | Rejected, state: BatchState) -> FinalOutcome:
    if isinstance(decided, Rejected):
        return decided
    existed = state.wallet(command.wallet_id).exists
    after = state.append(command.wallet_id, decided, request_id=command.request_id, api_audit_id=command.api_audit_id)
    return Moved(after.balance, not existed)


def _received(terms: TransferTerms, state: BatchState) -> tuple[Event, ...] | Rejected:
    refundable = state.refundable_to(terms.to_wallet_id)
    return receive(state.wallet(terms.to_wallet_id), terms, refundable=refundable)
