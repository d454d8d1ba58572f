"""The connection of an operator's command."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from wallet.postgres.connections import Connection, connect
from wallet.postgres.migrations import missing_migrations
from wallet.worker.database import DatabaseNotMigrated

STATEMENT_SECONDS: Final = 60.0
"""A body may have 128 MiB, and nobody waits for an operator's command."""
LOCK_MS: Final = 10_000
"""A worker holds a letter while it stores such a body in it."""
CLOSE_SECONDS: Final = 1.0


@asynccontextmanager
async def open_database(dsn: str) -> AsyncIterator[Connection]:
    """A connection to a migrated database. Raises DatabaseNotMigrated, or one of DATABASE_ERRORS."""
    connection = await connect(dsn, application_name="wallet dlq", lock_ms=LOCK_MS, statement_seconds=STATEMENT_SECONDS)
    try:
        missing = await missing_migrations(connection)
        if missing:
            raise DatabaseNotMigrated(f"The database lacks {', '.join(missing)}; run `wallet migrate`.")
        yield connection
    finally:
        with suppress(OSError, TimeoutError):
            await connection.close(timeout=CLOSE_SECONDS)
