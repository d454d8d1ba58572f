"""What the ledger hands back: an answer, or one of three typed failures."""

from collections.abc import Callable
from dataclasses import dataclass

from wallet.domain.commands import OperationKey
from wallet.domain.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class Answer:
    """A response exactly as it is sent and stored; `replayed` when it was stored by an earlier request."""

    status: int
    body: bytes
    replayed: bool = False

    @property
    def success(self) -> bool:
        """Whether the command took effect."""
        return self.status < 400


Render = Callable[[OperationKey, Outcome], Answer]
"""Turns the outcome of a key into its answer; a pure function of both, given to the ledger by bootstrap."""


class NotExecuted(Exception):
    """The command was certainly not executed: too busy, or no database. Retry with the same key."""


class OutcomeUnknown(Exception):
    """The command may or may not have taken effect. Retry with the same key to learn which."""


class CommandFailed(Exception):
    """The command ran into a bug of ours, alone: it was rolled back, nothing moved."""
