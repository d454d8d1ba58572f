"""Decides the requests of a batch, one after the other, and renders the answer of each.

This module also remembers which wallets exist, so that a batch does not try to create them again. A wallet that was
created is never removed.
"""

from collections.abc import Iterable, Sequence
from typing import Final, assert_never

from wallet.domain.batch import (
    AtomicRefusal,
    BatchState,
    Begun,
    Concluded,
    Credited,
    Decided,
    Decision,
    Executable,
    Replayed,
    StillPending,
    decide_atomic,
    decide_batch,
)
from wallet.domain.identifiers import OperationKey, WalletId
from wallet.domain.outcomes import KeyReused
from wallet.ledger.requests import Answer, Completed, Render, Request, RequestKind

REMEMBERED_MAX: Final = 100_000
"""About 10 MB. At this limit all are forgotten, which costs one statement per batch until they are known again."""


class BatchDecider:
    """Decides the requests of one batch. It updates `state` and keeps the answers that later commands may replay."""

    def __init__(self, state: BatchState, stored: dict[OperationKey, Answer], render: Render) -> None:
        self._state = state
        self._stored = stored
        self._render = render

    def complete(self, request: Request) -> Completed:
        """Returns the result of this request, decided after all requests that were completed before it."""
        if request.kind is RequestKind.ATOMIC:
            return self._complete_atomic(request)
        decisions = decide_batch(request.commands, self._state)
        return Completed(tuple(decisions), tuple(map(self._answer, request.commands, decisions)))

    def _complete_atomic(self, request: Request) -> Completed:
        commands = request.commands
        decided = decide_atomic(commands, self._state)
        if isinstance(decided, AtomicRefusal):
            return self._refuse(commands, decided)
        answers = tuple(map(self._answer, commands, decided))
        first = answers[0]
        # A refusal is stored under all keys of its request, so the answer of any of them is the refusal.
        refusal = first if first is not None and not first.success else None
        return Completed(tuple(decided), answers, refusal)

    def _refuse(self, commands: Sequence[Executable], refusal: AtomicRefusal) -> Completed:
        answer = self._render.atomic_refusal(commands[refusal.index].key, refusal.index, refusal.outcome)
        if isinstance(refusal.outcome, KeyReused):
            return Completed((refusal.outcome,) * len(commands), (None,) * len(commands), answer)
        self._stored.update((command.key, answer) for command in commands)
        return Completed((Decided(refusal.outcome),) * len(commands), (answer,) * len(commands), answer)

    def _answer(self, command: Executable, decision: Decision) -> Answer | None:
        """Returns the answer of a decision. A replay may use the answer of an earlier command of this batch."""
        match decision:
            case Decided(outcome) | Concluded(outcome=outcome):
                key = command.key
                answer = self._stored[key] = self._render.one(key, outcome)
                return answer
            case KeyReused():
                return self._render.one(command.key, decision)
            case Replayed(key, is_own):
                stored = self._stored[key]
                return Answer(stored.status, stored.body, replayed=not is_own)
            case Begun() | StillPending() | Credited():
                return None
            case _:
                assert_never(decision)


class KnownWallets:
    """The wallets that this process has seen committed. This is only a hint: callers check that the row exists."""

    def __init__(self) -> None:
        self._ids: set[WalletId] = set()

    def remember(self, wallet_ids: Iterable[WalletId]) -> None:
        """Record wallets that exist: this process has committed an event of them, or read a committed one."""
        if len(self._ids) >= REMEMBERED_MAX:
            self._ids.clear()
        self._ids.update(wallet_ids)

    def forget(self, wallet_ids: Iterable[WalletId]) -> None:
        """Remove wallets that do not exist after all, because the database was replaced by another one."""
        self._ids.difference_update(wallet_ids)

    def unknown(self, wallet_ids: set[WalletId]) -> set[WalletId]:
        """Returns those of the wallets that may have to be created."""
        return wallet_ids - self._ids
