"""A request inside the ledger: its commands, its deadline and the future that its client waits for. The ledger returns
an answer or raises one of three typed errors.
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
    """A response exactly as it is sent and stored. `replayed` is true if an earlier request stored it."""

    status: int
    body: bytes
    replayed: bool = False

    @property
    def success(self) -> bool:
        """Whether the command took effect."""
        return self.status < 400


class BulkAnswer(Value, frozen=True):
    """The answers of the operations of a bulk request, in order, or the refusal of an atomic request as a whole."""

    results: tuple[Answer, ...]
    refusal: Answer | None = None

    @property
    def status(self) -> int:
        """The HTTP status of the answer to the whole request."""
        return BULK_STATUS if self.refusal is None else self.refusal.status

    @property
    def replayed(self) -> bool:
        """Whether all answers were stored by an earlier request."""
        return all(answer.replayed for answer in self.results) if self.refusal is None else self.refusal.replayed


class Render(Value, frozen=True):
    """The pure functions that encode outcomes as answers. Bootstrap passes them to the ledger."""

    one: Callable[[OperationKey, Outcome], Answer]
    """Returns the answer for the outcome of a key."""
    atomic_refusal: Callable[[OperationKey, int, Outcome], Answer]
    """Returns the refusal of an atomic request from the key, place and outcome of the operation that was refused."""


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
    """How the commands of a request depend on each other."""

    SINGLE = auto()
    """The request has one command."""
    INDEPENDENT = auto()
    """Each command has its own outcome."""
    ATOMIC = auto()
    """All commands take effect, or none."""


@unique
class Phase(Enum):
    """The progress of a request. It decides what is known about its effect when its deadline passes."""

    WAITING = auto()
    """It has not begun, or it has begun and was certainly rolled back."""
    BEGUN = auto()
    """Its database transaction is under way."""
    UNKNOWN = auto()
    """A COMMIT was sent, and its answer has not been received."""


class Completed(Value, frozen=True):
    """The result of a request: the decision of each command, and its answer if the decision has one.

    `refusal` is the answer to an atomic request that was refused as a whole.
    """

    decisions: tuple[Decision, ...]
    answers: tuple[Answer | None, ...]
    refusal: Answer | None = None


@dataclass(slots=True, eq=False)
class Request:
    """The commands of one request (or one step of a transfer) with what is needed to audit and answer them.

    `record` is None for the steps of a transfer, which no client sent. `deadline` is in seconds of the event loop's
    clock. `place` (the order of arrival) and `blockers` are used by the Gathering only.
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
        """Collect the wallets once, because they are read each time the request moves."""
        if self.kind is RequestKind.SINGLE:
            self.wallet_ids = self.commands[0].wallet_ids
        else:
            self.wallet_ids = tuple(dict.fromkeys(each for command in self.commands for each in command.wallet_ids))

    @property
    def is_bulk(self) -> bool:
        """Whether it is a bulk request, also if it has one operation."""
        return self.kind is not RequestKind.SINGLE

    @property
    def is_over(self) -> bool:
        """Whether no client waits for it any more: it was answered, it failed, or its deadline passed."""
        return self.future.done()

    def roll_back(self, now_seconds: float) -> None:
        """Record that its database transaction had no effect. Ends it if the deadline (loop's clock) has passed."""
        if self.phase is Phase.BEGUN:
            self.phase = Phase.WAITING
            if now_seconds >= self.deadline:
                self.fail(NotExecuted("The deadline passed before the command could be committed."))

    def refuse(self, why: str) -> None:
        """End a request that is not running and can't be executed. If a COMMIT was sent, its outcome is unknown."""
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
    """Returns all commands of these requests, in order."""
    return (command for request in requests for command in request.commands)
