"""The worker's connection to PostgreSQL, opened when it is needed, dropped when it failed."""

from contextlib import suppress
from typing import Final, Self

import structlog

from wallet.postgres.connections import ROWS_BY_KEY, Connection, connect
from wallet.postgres.migrations import missing_migrations

CLOSE_SECONDS: Final = 1.0

_log = structlog.get_logger()


class DatabaseNotMigrated(Exception):
    """The database lacks migrations that this program needs; run `wallet migrate`."""


class Database:
    """One connection, used by one task; after a failure `drop` it, and the next use opens another."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Connection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError, TimeoutError):
                await connection.close(timeout=CLOSE_SECONDS)

    async def connection(self) -> Connection:
        """The open connection to a migrated database.

        Raises what `wallet.postgres.connections.connect` raises, or DatabaseNotMigrated.
        """
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._dsn, application_name="wallet worker", settings=ROWS_BY_KEY)
            missing = await missing_migrations(self._connection)
            if missing:
                self.drop()
                raise DatabaseNotMigrated(f"The database lacks {', '.join(missing)}; run `wallet migrate`.")
            _log.info("database_connected")
        return self._connection

    def drop(self) -> None:
        """End the connection at once, whatever state it is in."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
