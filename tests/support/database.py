"""Reads and writes of a test itself, each on a new connection."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from wallet.postgres.connections import Connection


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[Connection]:
    """Yields a connection, and closes it at the end."""
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()


async def fetch_rows(database_url: str, query: str, *arguments: object) -> list[asyncpg.Record]:
    """Returns the rows of a query; a row equals the tuple of its values."""
    async with connected(database_url) as connection:
        return await connection.fetch(query, *arguments)


async def fetch_value(database_url: str, query: str, *arguments: object) -> Any:
    """Returns the first value of the first row of a query, or None if it has no row."""
    async with connected(database_url) as connection:
        return await connection.fetchval(query, *arguments)


async def execute(database_url: str, statement: str, *arguments: object) -> str:
    """Executes a statement. Returns its command tag, for example `UPDATE 3`."""
    async with connected(database_url) as connection:
        return await connection.execute(statement, *arguments)
