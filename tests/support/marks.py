"""A small table to write to, for tests of the connection between a client and PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from tests.support.database import execute
from wallet.postgres.connections import Connection

LOST: Final = (OSError, asyncpg.InterfaceError, asyncpg.ConnectionDoesNotExistError)
"""The errors that asyncpg raises for a broken connection."""

COUNT: Final = "select count(*) from marks"


async def make_marks(url: str) -> None:
    """Create the table."""
    await execute(url, "create table marks (number int primary key, text text)")


async def mark(connection: Connection, number: int) -> None:
    """Insert one row in one database transaction, with the statements that the ledger would send."""
    await connection.execute("begin")
    await connection.execute("insert into marks (number) values ($1)", number)
    await connection.execute("commit")


@asynccontextmanager
async def connection_to(url: str, *, name: str = "test") -> AsyncIterator[Connection]:
    """Yields a connection, and terminates it at the end: behind a silent proxy an orderly close would hang."""
    connection = await asyncpg.connect(url, timeout=5, server_settings={"application_name": name})
    try:
        yield connection
    finally:
        connection.terminate()
