"""A small table to write to, for tests of what lies between a client and PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from wallet.postgres.connections import Connection

LOST: Final = (OSError, asyncpg.InterfaceError, asyncpg.ConnectionDoesNotExistError)
"""What asyncpg raises for a connection that breaks."""

COUNT: Final = "select count(*) from marks"


async def make_marks(url: str) -> None:
    """Make the table."""
    async with connection_to(url) as connection:
        await connection.execute("create table marks (number int primary key, text text)")


async def mark(connection: Connection, number: int) -> None:
    """One row in a transaction of its own, as the ledger sends it."""
    await connection.execute("begin")
    await connection.execute("insert into marks (number) values ($1)", number)
    await connection.execute("commit")


@asynccontextmanager
async def connection_to(url: str, *, name: str = "test") -> AsyncIterator[Connection]:
    """A connection that is given up at the end."""
    connection = await asyncpg.connect(url, timeout=5, server_settings={"application_name": name})
    try:
        yield connection
    finally:
        connection.terminate()
