"""A request on its way through the ledger: its commands, its deadline, the future that its client waits for, and what
the ledger returns: an answer, or one of three typed failures.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto, unique
from typing import Final

from wallet.domain.batch import Decision, Executable
from wallet.domain.identifiers import OperationKey, WalletId
from wallet.domain.money import Value
from wallet.domain.outcomes import Outcome
from wallet.trail.records import TrailRecord

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


@unique
class RequestKind(Enum):
    """What the commands of a request have to do with each other."""

    SINGLE = auto()
    """There is one."""
    INDEPENDENT = auto()
    """Each has its own outcome."""
    ATOMIC = auto()
    """All of them take effect, or none."""


@unique
class Phase(Enum):
    """How far a request has come; what is known of its effect when its deadline passes."""

    WAITING = auto()
    """Not begun, or begun and certainly rolled back."""
    BEGUN = auto()
    """Its transaction is under way."""
    UNKNOWN = auto()
    """A COMMIT was sent whose answer never came."""


class Completed(Value, frozen=True):
    """What came of a request: for each command its decision, and its answer where the decision has one.

    `refusal` is the answer to an atomic request of which nothing took effect.
    """

    decisions: tuple[Decision, ...]
    answers: tuple[Answer | None, ...]
    refusal: Answer | None = None


@dataclass(slots=True, eq=False)
class Request:
    """The commands of one request (or one step of a transfer) with what is needed to audit and answer them.

    `record` is None for the steps of a transfer that nobody sent as a request of its own. `deadline` is in
    the event loop's clock, seconds. `place` (its order of arrival) and `blockers` belong to the Gathering.
    """

    commands: tuple[Executable, ...]
    record: TrailRecord | None
    deadline: float
    future: asyncio.Future[Completed]
    kind: RequestKind = RequestKind.SINGLE
    phase: Phase = Phase.WAITING
    wallet_ids: tuple[WalletId, ...] = field(init=False)
    place: int = 0
    blockers: int = 0

    def __post_init__(self) -> None:
        """Work out the wallets once: they are asked for on every hand-over."""
        if self.kind is RequestKind.SINGLE:
            self.wallet_ids = self.commands[0].wallet_ids
        else:
            self.wallet_ids = tuple(dict.fromkeys(each for command in self.commands for each in command.wallet_ids))

    @property
    def is_bulk(self) -> bool:
        """Whether it came as a request of several operations."""
        return self.kind is not RequestKind.SINGLE

    @property
    def is_over(self) -> bool:
        """Whether nobody waits any more: answered, failed, or past its deadline."""
        return self.future.done()

    def roll_back(self, now_seconds: float) -> None:
        """Its transaction certainly left nothing of it. Past the deadline (by the loop's clock) that ends it."""
        if self.phase is Phase.BEGUN:
            self.phase = Phase.WAITING
            if now_seconds >= self.deadline:
                self.fail(NotExecuted("The deadline passed before the command could be committed."))

    def refuse(self, why: str) -> None:
        """End it because it can't go on, while it does not run. A COMMIT that was sent for it may have succeeded."""
        self.fail(OutcomeUnknown(why) if self.phase is Phase.UNKNOWN else NotExecuted(why))

    def complete(self, completed: Completed) -> None:
        """Answer the client, unless it was answered already."""
        if not self.future.done():
            self.future.set_result(completed)

    def fail(self, error: Exception) -> None:
        """Answer the client with an error, unless it was answered already."""
        if not self.future.done():
            self.future.set_exception(error)


def commands_of(requests: list[Request]) -> Iterator[Executable]:
    """All commands of these requests, in order."""
    return (command for request in requests for command in request.commands)
