"""An atomic request: all of its operations take effect, in order, or none of them does.

The keys of one request belong together. Each key's fingerprint covers the whole request, so a key is known either
with all the others or as part of another request; a refusal is the outcome of all of them.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from wallet.domain.batch import BatchState, Decided, Decision, Executable, Replayed, StoredOperation, decide_batch
from wallet.domain.identifiers import OperationKey
from wallet.domain.outcomes import KeyReused, Rejected
from wallet.domain.values import Value

ATOMIC: Final = "atomic"


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
