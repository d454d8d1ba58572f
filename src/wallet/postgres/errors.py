"""What an error from PostgreSQL or the way to it means; the table of the write path's answers."""

from enum import Enum, unique
from typing import Final

import asyncpg

# A server that ends an idle session leaves its farewell unread; the next statement then finds asyncpg in a state
# that it calls a bug of its own (InternalClientError). It is a lost connection like the others.
DATABASE_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""Everything that talking to PostgreSQL can raise; anything else is a bug of ours."""


@unique
class Failure(Enum):
    """What to do about a failed transaction."""

    RETRY = "deadlock or serialization: the same batch again"
    LOCKED = "a lock time-out: another session has locked a wallet"
    RECONNECT = "the connection is gone or unusable, a COMMIT's outcome perhaps unknown: the same batch on a new one"
    OVERLOADED = "the server has no room or gave up: not executed"
    CULPRIT = "a statement is at fault: find the command that causes it"


_RECONNECT_CODES: Final = frozenset({"25P03", "25P04", "25006", "53300"})


def failure_of(error: BaseException) -> Failure:
    """Sort an error by its SQLSTATE; an error without one is a lost or silent connection."""
    if isinstance(error, asyncpg.PostgresError):
        return _failure_of_sqlstate(error.sqlstate or "")
    if isinstance(error, OSError | TimeoutError | asyncpg.InternalClientError):
        return Failure.RECONNECT
    if isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError):
        # asyncpg raises a ValueError beside InterfaceError for an argument it can't encode: that is a culprit.
        return Failure.RECONNECT
    return Failure.CULPRIT


def _failure_of_sqlstate(sqlstate: str) -> Failure:
    if sqlstate in ("40001", "40P01"):
        return Failure.RETRY
    if sqlstate == "55P03":
        return Failure.LOCKED
    if sqlstate in _RECONNECT_CODES or sqlstate[:2] in ("08", "58") or sqlstate.startswith("57P0"):
        return Failure.RECONNECT
    if sqlstate.startswith("53") or sqlstate == "57014":
        return Failure.OVERLOADED
    return Failure.CULPRIT
