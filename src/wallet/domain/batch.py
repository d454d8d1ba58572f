"""A batch: commands folded in order over the locked states, each with the result it would have had alone.

The rule that everything else depends on: a batch gives exactly what its commands would give one at a time, in order. A
refusal is the outcome of its command alone and never affects the others.

In an atomic request all operations take effect, in order, or none of them does. The keys of one request belong
together. Each key's fingerprint covers the whole request, so a key is known either with all the others or as part of
another request; a refusal is the outcome of all of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Final, Protocol

from wallet.domain.events import Event, RecordedEvent, TransferTerms
from wallet.domain.identifiers import ApiAuditId, OperationKey, RequestId, TransferId, WalletId
from wallet.domain.money import ZERO, Value
from wallet.domain.outcomes import FinalOutcome, KeyReused, Rejected
from wallet.domain.transfer import CreditOutcome, TransferStatus
from wallet.domain.wallet import Wallet, initial, record

ATOMIC: Final = "atomic"


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
    """The receiver's decision on a stepwise transfer; `is_new` if it was made just now."""

    terms: TransferTerms
    outcome: CreditOutcome
    is_new: bool


class Concluded(Value, frozen=True):
    """A stepwise transfer ended just now: its key has its outcome."""

    terms: TransferTerms
    outcome: FinalOutcome
    status: TransferStatus
    last_error: str | None


Decision = Decided | Begun | Replayed | StillPending | KeyReused | Credited | Concluded


@dataclass(slots=True)
class BatchState:
    """What was locked and loaded for a batch; `decide_batch` folds it forward in place.

    `wallets` may lack wallets that have no row. `operations` are the keys' stored operations, `credits` the receivers'
    decisions on stepwise transfers, `unfinished` the transfers still debited. `refundable` is what each wallet has sent
    in stepwise transfers that have not ended, for the wallets that have any.
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


class Executable(Protocol):
    """What the ledger asks of a command or of a step of a transfer; it knows no kind of either."""

    @property
    def kind(self) -> str:
        """The name of the operation, as it is stored."""

    @property
    def key(self) -> OperationKey:
        """The key under which the outcome of this command (or of the transfer it is a step of) is stored."""

    @property
    def fingerprint(self) -> str:
        """What makes two requests the same one; empty for a step, which no client sends."""

    @property
    def request_id(self) -> RequestId:
        """The client's key."""

    @property
    def api_audit_id(self) -> ApiAuditId:
        """The id of the trail row of the request."""

    @property
    def wallet_ids(self) -> tuple[WalletId, ...]:
        """The wallets in whose order it must keep its place: every one whose row it may lock."""

    @property
    def receives(self) -> TransferTerms | None:
        """The transfer whose receiver it asks, if any."""

    @property
    def concludes(self) -> TransferTerms | None:
        """The transfer that it ends, if any."""

    def locked(self, *, stepwise: bool) -> tuple[WalletId, ...]:
        """The wallets that it locks."""

    def credited(self, *, stepwise: bool) -> tuple[WalletId, ...]:
        """The wallets that it may credit, and so may create."""

    def decide(self, state: BatchState) -> Decision:
        """Decide, and fold the state forward."""


def decide_batch(commands: Iterable[Executable], state: BatchState) -> list[Decision]:
    """One decision per command, in order; the events are in `state.events`, the states in `state.wallets`."""
    return [command.decide(state) for command in commands]


class AtomicRefusal(Value, frozen=True):
    """Nothing of the request took effect. `index` is the place of the first operation that could not.

    A KeyReused without a stored fingerprint: the key is new, while another key of the request is known.
    """

    index: int
    outcome: Rejected | KeyReused


def atomic_fingerprints(commands: Sequence[Executable]) -> list[str]:
    """The fingerprint of each key: `atomic:<sha256 of all operations with their keys, in order>:<index>`."""
    # A newline is in no id and in no fingerprint, so two different requests never look alike.
    spelled = "\n".join(f"{each.key.wallet_id}\n{each.request_id}\n{each.fingerprint}" for each in commands)
    digest = sha256(spelled.encode()).hexdigest()
    return [f"{ATOMIC}:{digest}:{index}" for index in range(len(commands))]


def decide_atomic(commands: Sequence[Executable], state: BatchState) -> list[Decision] | AtomicRefusal:
    """The decisions of a request with its keys all different, in order, or the refusal of the whole.

    Folds `state` forward as `decide_batch` does; a refusal leaves no trace but its keys' stored operations.
    """
    assert not state.stepwise, "the steps of a transfer are transactions of their own"
    keys, fingerprints = [command.key for command in commands], atomic_fingerprints(commands)
    if any(key in state.operations for key in keys):
        return _replay(commands, keys, fingerprints, state)
    wallets, event_count = dict(state.wallets), len(state.events)
    refusal: AtomicRefusal | None = None
    decisions: list[Decision] = []
    for index, command in enumerate(commands):
        [decision] = decide_batch([command], state)
        decisions.append(decision)
        if isinstance(decision, Decided) and isinstance(decision.outcome, Rejected):
            refusal = AtomicRefusal(index, decision.outcome)
            state.wallets = wallets
            del state.events[event_count:]
            break
    for key, fingerprint, command in zip(keys, fingerprints, commands, strict=True):
        state.operations[key] = StoredOperation(fingerprint, command.api_audit_id, is_final=True)
    return refusal or decisions


def _replay(
    commands: Sequence[Executable], keys: list[OperationKey], fingerprints: list[str], state: BatchState
) -> list[Decision] | AtomicRefusal:
    replayed: list[Decision] = []
    for index, (command, key, fingerprint) in enumerate(zip(commands, keys, fingerprints, strict=True)):
        stored = state.operations.get(key)
        if stored is None or stored.fingerprint != fingerprint:
            return AtomicRefusal(index, KeyReused("" if stored is None else stored.fingerprint))
        replayed.append(Replayed(key, is_own=stored.api_audit_id == command.api_audit_id))
    return replayed
