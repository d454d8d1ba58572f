"""What an error from PostgreSQL or the way to it means; the table of the write path's answers."""

from enum import Enum, auto, unique
from typing import Final, assert_never

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

    RETRY = auto()
    """Deadlock or serialization: the same batch again."""
    LOCKED = auto()
    """A lock time-out: another session has locked a wallet."""
    RECONNECT = auto()
    """The connection is gone or unusable, a COMMIT's outcome perhaps unknown: the same batch on a new one."""
    OVERLOADED = auto()
    """The server has no room or gave up: not executed."""
    CULPRIT = auto()
    """A statement is at fault: find the command that causes it."""


@unique
class Cause(Enum):
    """Why a statement failed, for a person; the value begins the message."""

    AWAY = "The database can't be reached"
    BUSY = "The database is too busy"
    REFUSED = "The database refuses the login"
    DAMAGED = "The database's files are damaged"
    FAILED = "The database reports an error"


_DAMAGED_CODES: Final = frozenset({"XX001", "XX002", "58P01", "58P02", "58030"})
"""An invalid page, an invalid index, a file that is missing or can't be read."""

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


def cause_of(error: BaseException) -> Cause:
    """Returns why talking to PostgreSQL failed, for one of DATABASE_ERRORS."""
    sqlstate = error.sqlstate or "" if isinstance(error, asyncpg.PostgresError) else ""
    if sqlstate in _DAMAGED_CODES:
        return Cause.DAMAGED
    if sqlstate[:2] == "28" or sqlstate in ("3D000", "42501"):
        return Cause.REFUSED
    if isinstance(error, asyncpg.ClientConfigurationError):
        return Cause.REFUSED
    match failure_of(error):
        case Failure.RECONNECT:
            return Cause.AWAY
        case Failure.RETRY | Failure.LOCKED | Failure.OVERLOADED:
            return Cause.BUSY
        case Failure.CULPRIT:
            return Cause.FAILED
        case other:
            assert_never(other)


def sentence_about(error: BaseException) -> str:
    """Returns the sentence, without a full stop, that names the cause and what PostgreSQL or the network said."""
    return f"{cause_of(error).value}: {str(error).rstrip('.') or type(error).__name__}"


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
