"""Sessions: connections to a database that has every migration of this version.

`session` is for one piece of work. A `Session` is for a loop: it is opened when it is first used, dropped after a
failure, and then opened again.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final, Self

import structlog

from wallet.postgres.connections import LOCK_MS, ROWS_BY_KEY, STATEMENT_SECONDS, Connection, connect
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.postgres.migrations import missing_migrations

CLOSE_SECONDS: Final = 2.0
"""The longest wait for a database that does not respond to a clean close."""


_log = structlog.get_logger()


class NotMigrated(Exception):
    """The database lacks migrations that this version needs; run `wallet migrate`."""


@asynccontextmanager
async def session(
    dsn: str,
    *,
    application_name: str,
    lock_ms: int = LOCK_MS,
    statement_seconds: float = STATEMENT_SECONDS,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Connection]:
    """Open a connection for as long as the block lasts. Raises NotMigrated, or one of DATABASE_ERRORS."""
    connection = await connect(
        dsn,
        application_name=application_name,
        lock_ms=lock_ms,
        statement_seconds=statement_seconds,
        settings=settings,
    )
    try:
        await _expect_migrated(connection)
        yield connection
    finally:
        with suppress(*DATABASE_ERRORS):
            await connection.close(timeout=CLOSE_SECONDS)


class Session:
    """One connection that one task uses at a time. After a failure call `drop`; the next use opens another one.

    If `needs_migrations` is false, it also works on a database that lacks a migration, for statements that do not
    need that migration.
    """

    def __init__(
        self, dsn: str, *, application_name: str, lock_ms: int = LOCK_MS, needs_migrations: bool = True
    ) -> None:
        self._dsn = dsn
        self._application_name = application_name
        self._lock_ms = lock_ms
        self._needs_migrations = needs_migrations
        self._connection: Connection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def connection(self) -> Connection:
        """Returns the open connection. Use it only to read and change rows by their keys.

        Raises NotMigrated, or one of DATABASE_ERRORS.
        """
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(
                self._dsn, application_name=self._application_name, lock_ms=self._lock_ms, settings=ROWS_BY_KEY
            )
            try:
                if self._needs_migrations:
                    await _expect_migrated(self._connection)
            except BaseException:
                self.drop()
                raise
            _log.info("database_connected", application=self._application_name)
        return self._connection

    async def roll_back(self) -> None:
        """End the open transaction. If that fails, end the connection."""
        if self._connection is None:
            return
        try:
            await self._connection.execute("rollback")
        except DATABASE_ERRORS:
            self.drop()

    def drop(self) -> None:
        """End the connection at once. It may be inside a transaction, or still be waiting for an answer."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """Close the connection, by force if it does not close soon."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            await connection.close(timeout=CLOSE_SECONDS)
        except DATABASE_ERRORS:
            connection.terminate()


async def _expect_migrated(connection: Connection) -> None:
    missing = await missing_migrations(connection)
    if missing:
        raise NotMigrated(f"The database lacks {', '.join(missing)}; run `wallet migrate`.")
