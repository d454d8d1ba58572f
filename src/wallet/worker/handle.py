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
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic

import asyncpg
import structlog

from wallet.domain.analytics import LoggedEvent
from wallet.fraud.rules import FraudRules
from wallet.postgres.connections import Connection
from wallet.postgres.errors import Failure, failure_of
from wallet.postgres.lease import LeaseLost
from wallet.worker.dead_letters import keep
from wallet.worker.effects import MoveCheckpoint, commit_effects, in_transaction
from wallet.worker.messages import AnyMessage, Check, Checked, Refused
from wallet.worker.notify import notify

TRIES_MAX: Final = 3
RETRY_DELAYS_SECONDS: Final = (0.1, 0.4)
assert len(RETRY_DELAYS_SECONDS) == TRIES_MAX - 1

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Handled(Generic[AnyMessage]):
    """What became of a group: messages whose effects are in, and messages that are dead letters now."""

    done: list[AnyMessage]
    refused: list[Refused[AnyMessage]]


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
) -> tuple[list[Checked[AnyMessage]], list[Refused[AnyMessage]]]:
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
    return done, [Refused(item.message, error, TRIES_MAX) for item, error in failing]


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
