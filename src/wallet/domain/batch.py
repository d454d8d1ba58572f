"""A batch: commands that are decided in order, each one on the states that the commands before it produced.

Everything else depends on one rule: a batch has exactly the results that its commands would have one at a time, in the
same order. A refusal is the outcome of one command and never affects the others.

In an atomic request, all operations take effect in order, or none of them does. The keys of one request belong
together: the fingerprint of each key covers the whole request. So either all of the keys are stored for this request,
or a stored key belongs to another request. A refusal is the outcome of all keys of the request.
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
    """The stored record of a key: the request that it belongs to, and whether its outcome is final."""

    fingerprint: str
    api_audit_id: ApiAuditId
    is_final: bool


class Decided(Value, frozen=True):
    """The command was decided in this batch. The outcome must be stored under its key."""

    outcome: FinalOutcome


class Begun(Value, frozen=True):
    """A stepwise transfer was debited; the outcome of its key is pending."""

    terms: TransferTerms


class Replayed(Value, frozen=True):
    """The key already has an outcome, so the stored answer is returned.

    `is_own` is true if this same request (by its audit id) stored the outcome in an earlier attempt whose answer was
    lost.
    """

    key: OperationKey
    is_own: bool


class StillPending(Value, frozen=True):
    """The transfer of this key has not ended yet. `is_own` has the same meaning as in Replayed."""

    key: OperationKey
    is_own: bool


class Credited(Value, frozen=True):
    """The receiver's decision on a stepwise transfer. `is_new` is true if it was made in this batch."""

    terms: TransferTerms
    outcome: CreditOutcome
    is_new: bool


class Concluded(Value, frozen=True):
    """A stepwise transfer ended in this batch, so its key now has a final outcome."""

    terms: TransferTerms
    outcome: FinalOutcome
    status: TransferStatus
    last_error: str | None


Decision = Decided | Begun | Replayed | StillPending | KeyReused | Credited | Concluded


@dataclass(slots=True)
class BatchState:
    """The data that was locked and loaded for a batch. `decide_batch` updates it in place.

    `wallets` does not contain wallets that have no row. `operations` has the stored operation of each key, `credits`
    has the receivers' decisions on stepwise transfers, and `unfinished` has the transfers that are still debited.
    `refundable` has, for each wallet with unfinished stepwise transfers, the sum that it has sent in them.
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
        """Returns the state of the wallet after the commands that were decided so far."""
        return self.wallets.get(wallet_id) or initial(wallet_id)

    def refundable_to(self, wallet_id: WalletId) -> Decimal:
        """Returns the sum that may still be refunded to the wallet, after the commands that were decided so far."""
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
    """The interface of a command or of a step of a transfer. The ledger depends on nothing else of them."""

    @property
    def kind(self) -> str:
        """The name of the operation, as it is stored."""

    @property
    def key(self) -> OperationKey:
        """The key under which the outcome of this command (or of the transfer it is a step of) is stored."""

    @property
    def fingerprint(self) -> str:
        """The text that identifies the content of a request. It is empty for a step, which no client sends."""

    @property
    def request_id(self) -> RequestId:
        """The client's key."""

    @property
    def api_audit_id(self) -> ApiAuditId:
        """The id of the trail row of the request."""

    @property
    def wallet_ids(self) -> tuple[WalletId, ...]:
        """Every wallet whose row it may lock. Commands on the same wallet run in order of arrival."""

    @property
    def receives(self) -> TransferTerms | None:
        """The transfer whose receiver it asks for a decision, or None."""

    @property
    def concludes(self) -> TransferTerms | None:
        """The transfer that it ends, or None."""

    def locked(self, *, stepwise: bool) -> tuple[WalletId, ...]:
        """Returns the wallets that it locks."""

    def credited(self, *, stepwise: bool) -> tuple[WalletId, ...]:
        """Returns the wallets that it may credit and therefore may create."""

    def decide(self, state: BatchState) -> Decision:
        """Decide, and update `state`."""


def decide_batch(commands: Iterable[Executable], state: BatchState) -> list[Decision]:
    """Returns one decision per command, in order. Adds the events to `state.events` and updates `state.wallets`."""
    return [command.decide(state) for command in commands]


class AtomicRefusal(Value, frozen=True):
    """Nothing of the request took effect. `index` is the place of the first operation that was refused.

    A KeyReused without a stored fingerprint means: this key is new, but another key of the request is already stored.
    """

    index: int
    outcome: Rejected | KeyReused


def atomic_fingerprints(commands: Sequence[Executable]) -> list[str]:
    """Returns the fingerprint of each key: `atomic:<sha256 of all operations with their keys, in order>:<index>`."""
    # No id and no fingerprint contains a newline, so two different requests never have the same text.
    spelled = "\n".join(f"{each.key.wallet_id}\n{each.request_id}\n{each.fingerprint}" for each in commands)
    digest = sha256(spelled.encode()).hexdigest()
    return [f"{ATOMIC}:{digest}:{index}" for index in range(len(commands))]


def decide_atomic(commands: Sequence[Executable], state: BatchState) -> list[Decision] | AtomicRefusal:
    """Returns the decisions of a request in order, or its refusal as a whole. The keys of the request must differ.

    Updates `state` as `decide_batch` does. After a refusal, only the stored operations of the keys have changed.
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
