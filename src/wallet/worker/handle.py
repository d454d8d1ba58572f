"""Applies a group of messages and isolates the ones that fail.

1. Check: decode each message and compare it with the log. A message whose event is not in the log becomes a dead
   letter.
2. Effects: apply all others in one database transaction (see effects.py).
3. If that transaction fails because of the messages, each message is run alone, up to three times, with a back-off
   between the rounds. A message that still fails becomes a dead letter; the others have taken effect. All messages
   share the back-off of a round, so a group in which every message fails is slow, not stuck.

A failure of a dependency (database unavailable, overloaded or not migrated; lease lost) is raised unchanged. It creates
no dead letter, and the caller stops taking messages until the dependency is available. A COMMIT whose outcome is
unknown needs no special case: the same messages are delivered again, and the inbox recognises those that took effect.

A dead letter is committed before this function returns, and before the checkpoint moves past its message.

The size of groups adapts. A group that fails as a whole, for example at a time limit of the database, is delivered
again and could fail again each time with the same size. So the size is halved after a failure, down to one message. It
is doubled after a number of groups that succeeded, so that a short database outage has little cost.

A failure ends a turn of the loop around a transport, but never the process. The loop waits for an unavailable
dependency with growing pauses. It also waits after a bug of ours that no message causes: waiting loses nothing, while
turning the message into a dead letter would lose its effect.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, Protocol

import asyncpg
import structlog

from wallet.domain.analytics import LoggedEvent
from wallet.fraud.rules import FraudRules
from wallet.postgres.connections import Connection
from wallet.postgres.errors import DATABASE_ERRORS, Failure, failure_of
from wallet.postgres.lease import LeaseLost
from wallet.postgres.session import NotMigrated, Session
from wallet.rabbitmq.connection import InvalidBrokerAddress
from wallet.runtime.loop import Backoff, unless_stopped
from wallet.runtime.metrics import Counter, Metrics
from wallet.worker.dead_letters import keep
from wallet.worker.effects import MoveCheckpoint, commit_effects, in_transaction, notify
from wallet.worker.messages import AnyMessage, Checked, CheckMessages, RefusedMessage

TRIES_MAX: Final = 3
RETRY_DELAYS_SECONDS: Final = (0.1, 0.4)
assert len(RETRY_DELAYS_SECONDS) == TRIES_MAX - 1

_log = structlog.get_logger()
GROW_AFTER_GROUPS: Final = 10
APPLICATION: Final = "wallet worker"
HANDLED: Final = Counter(
    "wallet_worker_messages",
    "Messages that were handled, including repeated ones, by their result: effect or dead_letter.",
    process="worker",
    labels=("result",),
)
RETRY_SECONDS_MIN: Final = 0.1
RETRY_SECONDS_MAX: Final = 5.0
_DEPENDENCY_ERRORS: Final = (*DATABASE_ERRORS, NotMigrated, LeaseLost)


@dataclass(frozen=True, slots=True)
class Handled(Generic[AnyMessage]):
    """The result of a group: the messages whose effects are committed, and the messages that became dead letters."""

    done: list[AnyMessage]
    refused: list[RefusedMessage[AnyMessage]]


async def handle_group(
    connection: Connection,
    messages: Sequence[AnyMessage],
    rules: FraudRules,
    *,
    check: CheckMessages[AnyMessage],
    move_checkpoint: MoveCheckpoint | None = None,
) -> Handled[AnyMessage]:
    """Apply the effects of the messages, or store them as dead letters. All of that is committed when this returns."""
    checked, refused = await check(connection, messages)
    await keep(connection, refused)
    error = await _commit(connection, [item.event for item in checked], rules, move_checkpoint)
    if error is None:
        return Handled([item.message for item in checked], refused)
    _log.warning("group_failed", count=len(checked), error=_describe(error), exc_info=error)
    done, failed = await _run_one_at_a_time(connection, checked, rules)
    await keep(connection, failed)
    if move_checkpoint is not None:
        await in_transaction(connection, partial(move_checkpoint, connection))
    return Handled([item.message for item in done], [*refused, *failed])


class GroupHandler:
    """Handles the groups of one worker process, and counts their results."""

    def __init__(self, rules: FraudRules, metrics: Metrics) -> None:
        self._rules = rules
        self._metrics = metrics
        self.handled = asyncio.Event()
        """Set after each group. The task that waits for it clears it."""

    async def handle(
        self,
        connection: Connection,
        messages: Sequence[AnyMessage],
        check: CheckMessages[AnyMessage],
        move_checkpoint: MoveCheckpoint | None = None,
    ) -> Handled[AnyMessage]:
        """See `handle_group`."""
        handled = await handle_group(connection, messages, self._rules, check=check, move_checkpoint=move_checkpoint)
        self.handled.set()
        self._metrics.add(HANDLED, len(handled.done), "effect")
        self._metrics.add(HANDLED, len(handled.refused), "dead_letter")
        return handled


def is_messages_fault(error: Exception) -> bool:
    """Returns whether the messages caused the error, so that other messages would not fail; only then may one become a
    dead letter.
    """
    if isinstance(error, LeaseLost):
        return False
    if isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith(("28", "3D", "3F", "42")):
        # For example a missing table or permission: the deployment is at fault, as every message runs the same
        # statements.
        return False
    return failure_of(error) is Failure.CULPRIT


async def _commit(
    connection: Connection,
    events: Sequence[LoggedEvent],
    rules: FraudRules,
    move_checkpoint: MoveCheckpoint | None = None,
) -> Exception | None:
    """Commit the effects and log the alerts. Returns the error if the messages caused it."""
    try:
        notify(await commit_effects(connection, events, rules, move_checkpoint))
    except Exception as error:
        if is_messages_fault(error):
            return error
        raise
    return None


async def _run_one_at_a_time(
    connection: Connection, checked: Sequence[Checked[AnyMessage]], rules: FraudRules
) -> tuple[list[Checked[AnyMessage]], list[RefusedMessage[AnyMessage]]]:
    done: list[Checked[AnyMessage]] = []
    failing = [(item, "") for item in checked]
    for delay_seconds in (0, *RETRY_DELAYS_SECONDS):
        await asyncio.sleep(delay_seconds if failing else 0)
        trying, failing = failing, []
        for item, _ in trying:
            error = await _commit(connection, [item.event], rules)
            if error is None:
                done.append(item)
            else:
                _log.debug("event_failed", event_id=str(item.event.event_id), error=_describe(error))
                failing.append((item, _describe(error)))
    return done, [RefusedMessage(item.message, error, TRIES_MAX) for item, error in failing]


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class GroupSize:
    """Adapts the size of the groups of one transport."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._succeeded_count = 0
        self.current = size_max

    def note_success(self) -> None:
        """Count a group that was handled."""
        if self.current == self._size_max:
            return
        self._succeeded_count += 1
        if self._succeeded_count >= GROW_AFTER_GROUPS:
            self._succeeded_count = 0
            self.current = min(self._size_max, self.current * 2)

    def note_failure(self) -> None:
        """Count a group that failed as a whole."""
        self._succeeded_count = 0
        self.current = max(1, self.current // 2)


class Transport(Protocol):
    """Delivers messages to the handlers."""

    async def take_turn(self) -> None:
        """Wait for messages and handle them."""

    async def stand_down(self) -> None:
        """Release all messages after a failed turn, until the next turn."""


async def run_loop(transport: Transport, session: Session, stop: asyncio.Event) -> None:
    """Take turns until asked to stop.

    Raises only InvalidBrokerAddress, which waiting does not fix.
    """
    backoff = Backoff(seconds_min=RETRY_SECONDS_MIN, seconds_max=RETRY_SECONDS_MAX)
    while not stop.is_set():
        try:
            await transport.take_turn()
            backoff.reset()
        except InvalidBrokerAddress:
            raise
        except Exception as error:  # noqa: BLE001 - A loop of the process: it logs the error and continues.
            reason = f"{type(error).__name__}: {error}"
            _log.warning("worker_paused", reason=reason, exc_info=not isinstance(error, _DEPENDENCY_ERRORS))
            session.drop()
            # A broker that does not respond to a clean close must not end the process.
            with suppress(TimeoutError):
                await transport.stand_down()
            await unless_stopped(backoff.wait(), stop)
