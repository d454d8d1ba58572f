"""Discards a letter: closes it with a reason, for good unless its message comes again.

A letter whose event is in the log without its effect is closed only by force: with it the last trace of a lost effect
would go. The decision and what it is based on are one transaction, in which the letter is locked.
"""

from collections.abc import Collection
from enum import Enum
from typing import Final

import structlog

from wallet.dead_letters.letters import Letter, LetterId, State, read_letter
from wallet.dead_letters.replay import find_waiting_event
from wallet.postgres.connections import Connection
from wallet.postgres.statements import load_statements
from wallet.rabbitmq.dead_letter_queue import take_out_closed
from wallet.runtime.failpoints import failpoint

_ARE_OPEN: Final[str] = load_statements("wallet.dead_letters", "dead_letters.sql").are_open


async def remove_closed(connection: Connection, rabbitmq_url: str) -> int:
    """Take out the messages of closed letters, those of earlier commands too; returns how many they were.

    Raises BrokerUnavailable.
    """

    async def are_open(digests: Collection[bytes]) -> dict[bytes, bool]:
        # A message is in the queue only after its letter was committed, so this, asked later, never calls an open
        # letter closed.
        rows = await connection.fetch(_ARE_OPEN, list(digests))
        return {row["body_sha256"]: row["is_open"] for row in rows}

    await failpoint("dlq.before_remove")
    return await take_out_closed(rabbitmq_url, are_open, name="wallet dlq")


_STATEMENTS = load_statements("wallet.dead_letters", "dead_letters.sql")
_LOCK_LETTER: Final[str] = _STATEMENTS.lock_letter
_MARK_DISCARDED: Final[str] = _STATEMENTS.mark_discarded

_log = structlog.get_logger()


class Discarded(Enum):
    """What a discard found."""

    NOW = "discarded"
    BEFORE = "was discarded already"
    WAS_REPLAYED = "was replayed, so there is nothing to discard"
    REFUSED = "was not discarded: its event is in the log and has had no effect"


async def discard(
    connection: Connection, letter_id: LetterId, *, actor: str, reason: str, is_forced: bool = False
) -> tuple[Letter, Discarded]:
    """Close an open letter. Returns the letter as it is then. Raises NoSuchLetter."""
    async with connection.transaction():
        await connection.execute(_LOCK_LETTER, letter_id)
        letter = await read_letter(connection, letter_id)
        if not letter.is_open:
            return letter, Discarded.BEFORE if letter.state is State.DISCARDED else Discarded.WAS_REPLAYED
        waiting = await find_waiting_event(connection, letter)
        if waiting is not None and not is_forced:
            return letter, Discarded.REFUSED
        await connection.execute(_MARK_DISCARDED, letter_id, actor, reason)
        letter = await read_letter(connection, letter_id)
    lost = None if waiting is None else f"wallet {waiting.wallet_id}, version {waiting.version}"
    _log.info("dead_letter_discarded", letter_id=letter_id, actor=actor, reason=reason, without_effect=lost)
    return letter, Discarded.NOW
