"""Applies a group of messages and isolates the ones that fail.

1. Check: decode, and compare each message with the log. One that has no event there becomes a dead letter.
2. Effects: one transaction for all others: see effects.
3. If that fails by the messages' own fault, each is run alone, up to three times with a back-off in place between
   the rounds; one that still fails becomes a dead letter, the others have taken effect. The rounds share their
   back-off, so a group in which everything fails is slow, not stuck.

A dependency's fault (database away, overloaded, not migrated; lease lost) is raised as it came: no dead letter comes
of it, and the caller stops taking messages until the dependency is back. A COMMIT whose outcome is unknown is no
special case: the same messages come again, and the inbox knows.

A dead letter is committed before this returns, and before the checkpoint moves past it.

The size of groups adapts: a group that fails as a whole, for example at a time limit of the database, comes again. With
the same size it could fail again each time, so the size is halved after a failure, down to one message. It is doubled
after a number of groups that succeeded, so that a database that was away for a moment costs little.

The loop around a transport ends a turn at a failure, and never the process. It waits for a dependency that is away,
with pauses that grow. It also waits at a bug of ours that is no message's fault: nothing is lost by waiting, while a
message that became a dead letter for it would be.
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
from wallet.worker.dead_letters import keep
from wallet.worker.effects import MoveCheckpoint, commit_effects, in_transaction, notify
from wallet.worker.messages import AnyMessage, Check, Checked, RefusedMessage

TRIES_MAX: Final = 3
RETRY_DELAYS_SECONDS: Final = (0.1, 0.4)
assert len(RETRY_DELAYS_SECONDS) == TRIES_MAX - 1

_log = structlog.get_logger()
GROW_AFTER_GROUPS: Final = 10
APPLICATION: Final = "wallet worker"
RETRY_SECONDS_MIN: Final = 0.1
RETRY_SECONDS_MAX: Final = 5.0
_DEPENDENCY_ERRORS: Final = (*DATABASE_ERRORS, NotMigrated, LeaseLost)


@dataclass(frozen=True, slots=True)
class Handled(Generic[AnyMessage]):
    """What became of a group: messages whose effects are in, and messages that are dead letters now."""

    done: list[AnyMessage]
    refused: list[RefusedMessage[AnyMessage]]


async def handle_group(
    connection: Connection,
    messages: Sequence[AnyMessage],
    rules: FraudRules,
    *,
    check: Check[AnyMessage],
    move_checkpoint: MoveCheckpoint | None = None,
) -> Handled[AnyMessage]:
    """Apply the effects of the messages, or keep them as dead letters. When it returns all of that is committed."""
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


def is_messages_fault(error: Exception) -> bool:
    """Whether the error is one that other messages would not have had; only then may one become a dead letter."""
    if isinstance(error, LeaseLost):
        return False
    if isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith(("28", "3D", "3F", "42")):
        # No such table, no permission: the deployment's fault, as our statements are the same for every message.
        return False
    return failure_of(error) is Failure.CULPRIT


async def _commit(
    connection: Connection,
    events: Sequence[LoggedEvent],
    rules: FraudRules,
    move_checkpoint: MoveCheckpoint | None = None,
) -> Exception | None:
    """Commit the effects and notify of the alerts; returns the error if it is the messages' own."""
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
        """A group was handled."""
        if self.current == self._size_max:
            return
        self._succeeded_count += 1
        if self._succeeded_count >= GROW_AFTER_GROUPS:
            self._succeeded_count = 0
            self.current = min(self._size_max, self.current * 2)

    def note_failure(self) -> None:
        """A group failed as a whole."""
        self._succeeded_count = 0
        self.current = max(1, self.current // 2)


class Transport(Protocol):
    """What brings messages to the handlers."""

    async def take_turn(self) -> None:
        """Wait for messages and handle them."""

    async def stand_down(self) -> None:
        """A turn failed: hold no message until the next one."""


async def run_loop(transport: Transport, session: Session, stop: asyncio.Event) -> None:
    """Take turns until asked to stop.

    Raises nothing but InvalidBrokerAddress, which no waiting cures.
    """
    pace = Backoff(seconds_min=RETRY_SECONDS_MIN, seconds_max=RETRY_SECONDS_MAX)
    while not stop.is_set():
        try:
            await transport.take_turn()
            pace.reset()
        except InvalidBrokerAddress:
            raise
        except Exception as error:  # noqa: BLE001 - A loop of the process: it logs, and goes on with the next turn.
            reason = f"{type(error).__name__}: {error}"
            _log.warning("worker_paused", reason=reason, exc_info=not isinstance(error, _DEPENDENCY_ERRORS))
            session.drop()
            # A broker that does not even answer the goodbye is no reason to end.
            with suppress(TimeoutError):
                await transport.stand_down()
            await unless_stopped(pace.wait(), stop)
