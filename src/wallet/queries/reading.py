"""One read: a statement that answers within its limit, or fails with a word the client can use."""

import asyncio
from typing import Final

import structlog
from asyncpg import Record

from wallet.postgres.connections import Pool
from wallet.postgres.errors import DATABASE_ERRORS, Failure, failure_of

READ_SECONDS_MAX: Final = 4.0
TRIES_MAX: Final = 3

_log = structlog.get_logger("wallet.queries")


class ReadFailed(Exception):
    """The database did not answer in time."""

    def __str__(self) -> str:
        """The docstring is the message."""
        return self.__doc__ or ""


async def fetch(pool: Pool, statement: str, *arguments: object) -> list[Record]:
    """The rows of a read-only statement, one round trip. Raises ReadFailed.

    A read can be repeated without harm, so a connection that turns out to be dead is not the client's problem
    as long as another one answers in time.
    """
    try:
        async with asyncio.timeout(READ_SECONDS_MAX):
            for tries_left in reversed(range(TRIES_MAX)):
                try:
                    return await pool.fetch(statement, *arguments)
                except DATABASE_ERRORS as error:
                    failure = failure_of(error)
                    if failure is Failure.CULPRIT:
                        raise
                    if failure is not Failure.RECONNECT or not tries_left:
                        raise ReadFailed from error
    except TimeoutError as error:
        raise ReadFailed from error
    raise AssertionError("the last try returns or raises")


async def fetch_one(pool: Pool, statement: str, *arguments: object) -> Record | None:
    """The first row, or None where there is none. Raises ReadFailed."""
    rows = await fetch(pool, statement, *arguments)
    return rows[0] if rows else None
