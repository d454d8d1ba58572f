"""What the ledger hands back: an answer, or one of three typed failures."""

from collections.abc import Callable
from typing import Final

from wallet.domain.identifiers import OperationKey
from wallet.domain.outcomes import Outcome
from wallet.domain.values import Value

BULK_STATUS: Final = 200
"""The status of a bulk request that was not refused as a whole."""


class Answer(Value, frozen=True):
    """A response exactly as it is sent and stored; `replayed` when it was stored by an earlier request."""

    status: int
    body: bytes
    replayed: bool = False

    @property
    def success(self) -> bool:
        """Whether the command took effect."""
        return self.status < 400


class BulkAnswer(Value, frozen=True):
    """The answers of the operations of a bulk request, in order; or the refusal of a whole atomic request."""

    results: tuple[Answer, ...]
    refusal: Answer | None = None

    @property
    def status(self) -> int:
        """What the request as a whole is answered with."""
        return BULK_STATUS if self.refusal is None else self.refusal.status

    @property
    def replayed(self) -> bool:
        """Whether all of it was stored by an earlier request."""
        return all(answer.replayed for answer in self.results) if self.refusal is None else self.refusal.replayed


class Render(Value, frozen=True):
    """Turns outcomes into answers: pure functions, given to the ledger by bootstrap."""

    one: Callable[[OperationKey, Outcome], Answer]
    """The outcome of a key as its answer."""
    atomic_refusal: Callable[[OperationKey, int, Outcome], Answer]
    """The refusal of a whole atomic request, with the key, place and outcome of the operation that could not."""


class NotExecuted(Exception):
    """This attempt had no effect: too busy, or no database. Retry with the same key.

    The ledger raises it only if no other attempt of this process with the key may still take effect.
    """


class OutcomeUnknown(Exception):
    """The command may or may not have taken effect. Retry with the same key to learn which."""


class CommandFailed(Exception):
    """The command ran into a bug of ours, alone: this attempt was rolled back."""
