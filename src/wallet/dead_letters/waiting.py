"""Whether the event that a dead letter names is in the log and has had no effect: then somebody still waits for it."""

from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from wallet.dead_letters.letters import Letter
from wallet.domain.identifiers import WalletId
from wallet.postgres.connections import Connection
from wallet.postgres.statements import load_statements

BATCH_BEFORE_EVENT_MAX: Final = timedelta(seconds=20)
"""An event's id is made a moment after its batch's, in one transaction, which can't be open for so long."""
BATCH_AFTER_EVENT_MAX: Final = timedelta(seconds=1)

_FIND_WAITING_EVENT: Final[str] = load_statements("wallet.dead_letters", "dead_letters.sql").find_waiting_event


class WaitingEvent(NamedTuple):
    """An event in the log without its effect."""

    wallet_id: WalletId
    version: int


async def find_waiting_event(connection: Connection, letter: Letter) -> WaitingEvent | None:
    """Returns the event with the id that the letter names, if the log has it and it had no effect.

    Events have no index by id. So it is looked for where the letter says that it is, and among the batches whose
    ids, UUIDv7 as the event's, were made at the time that the event's id tells. What else the letter says of itself
    is not believed.
    """
    if letter.event_id is None:
        return None
    made_at = letter.event_id.int >> 80
    row = await connection.fetchrow(
        _FIND_WAITING_EVENT,
        letter.event_id,
        letter.wallet_id,
        letter.version,
        _lowest_id_at(made_at - BATCH_BEFORE_EVENT_MAX // _MILLISECOND),
        _lowest_id_at(made_at + BATCH_AFTER_EVENT_MAX // _MILLISECOND),
    )
    return None if row is None else WaitingEvent(row["wallet_id"], row["version"])


_MILLISECOND: Final = timedelta(milliseconds=1)
_MILLISECONDS_MAX: Final = 2**48 - 1


def _lowest_id_at(milliseconds: int) -> UUID:
    return UUID(int=min(max(milliseconds, 0), _MILLISECONDS_MAX) << 80)
