"""Classifies the errors of PostgreSQL and of the connection to it. The write path decides its reaction by this."""

from enum import Enum, auto, unique
from typing import Final, assert_never

import asyncpg

# When a server ends an idle session, its last message stays unread. asyncpg then raises InternalClientError at the next
# statement, as if it had a bug. We treat this as a lost connection like any other.
DATABASE_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""All errors that the use of PostgreSQL can raise. Any other error is a bug of ours."""


@unique
class Failure(Enum):
    """What to do about a failed transaction."""

    RETRY = auto()
    """A deadlock or a serialization failure: run the same batch again."""
    LOCKED = auto()
    """A lock time-out: another session has locked a wallet."""
    RECONNECT = auto()
    """The connection is lost or unusable, and the outcome of a COMMIT may be unknown: run the batch on a new one."""
    OVERLOADED = auto()
    """The server has no room, or cancelled the statement: the batch was not executed."""
    CULPRIT = auto()
    """A statement failed because of its content: find the command that causes it."""


@unique
class Cause(Enum):
    """Why a statement failed, as text for an operator. The message begins with the value."""

    AWAY = "The database can't be reached"
    BUSY = "The database is too busy"
    REFUSED = "The database refuses the login"
    DAMAGED = "The database's files are damaged"
    FAILED = "The database reports an error"


_DAMAGED_CODES: Final = frozenset({"XX001", "XX002", "58P01", "58P02", "58030"})
"""An invalid page, an invalid index, or a file that is missing or can't be read."""

_RECONNECT_CODES: Final = frozenset({"25P03", "25P04", "25006", "53300"})


def failure_of(error: BaseException) -> Failure:
    """Classify an error by its SQLSTATE. An error without one means a lost or silent connection."""
    if isinstance(error, asyncpg.PostgresError):
        return _failure_of_sqlstate(error.sqlstate or "")
    if isinstance(error, OSError | TimeoutError | asyncpg.InternalClientError):
        return Failure.RECONNECT
    if isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError):
        # For an argument that it can't encode, asyncpg raises an InterfaceError that is also a ValueError: a CULPRIT.
        return Failure.RECONNECT
    return Failure.CULPRIT


def cause_of(error: BaseException) -> Cause:
    """Returns why the use of PostgreSQL failed. `error` is one of DATABASE_ERRORS."""
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
    """Returns a sentence, without a full stop, with the cause and the message of PostgreSQL or the network."""
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
