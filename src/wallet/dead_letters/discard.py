"""Discards a letter: closes it with a reason, for good unless its message comes again."""

from enum import Enum
from typing import TYPE_CHECKING, Final

import structlog

from wallet.dead_letters.letters import Letter, LetterId, State, read_letter
from wallet.postgres.statements import load_statements

if TYPE_CHECKING:
    from wallet.postgres.connections import Connection

_MARK_DISCARDED: Final[str] = load_statements("wallet.dead_letters", "dead_letters.sql").mark_discarded

_log = structlog.get_logger()


class Discarded(Enum):
    """What a discard found."""

    NOW = "discarded"
    BEFORE = "was discarded already"
    WAS_REPLAYED = "was replayed, so there is nothing to discard"


async def discard(
    connection: "Connection", letter_id: LetterId, *, actor: str, reason: str
) -> tuple[Letter, Discarded]:
    """Close an open letter; the letter as it is then. Raises NoSuchLetter."""
    is_marked = await connection.fetchval(_MARK_DISCARDED, letter_id, actor, reason) is not None
    letter = await read_letter(connection, letter_id)
    if is_marked:
        _log.info("dead_letter_discarded", letter_id=letter_id, actor=actor, reason=reason)
        return letter, Discarded.NOW
    if letter.is_open:  # It was closed a moment ago, and failed again since.
        return await discard(connection, letter_id, actor=actor, reason=reason)
    return letter, Discarded.BEFORE if letter.state is State.DISCARDED else Discarded.WAS_REPLAYED
