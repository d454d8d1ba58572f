"""One moment of the database, read for as long as a proof takes.

A REPEATABLE READ transaction sees every commit before its first statement whole and none after it, so a live system
gives no false alarm. It reads only and locks no row: writers never wait for it. What it costs them is that vacuum
keeps the rows of that moment until it ends.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg
from asyncpg import Record

from wallet.domain.identifiers import BUCKET_COUNT
from wallet.integrity.findings import Check, Finding
from wallet.postgres.connections import Connection
from wallet.postgres.session import session
from wallet.postgres.statements import load_statements

SQL: Final = load_statements("wallet.integrity.checks", "checks.sql")

# One statement reads and sorts a whole table; this is the longest that one may take.
STATEMENT_SECONDS: Final = 3600.0
ROWS_FETCHED: Final = 2_000


class Buckets(NamedTuple):
    """The wallets that a proof is made of, from bucket to bucket; both belong to it."""

    first: int
    last: int


ALL_BUCKETS: Final = Buckets(0, BUCKET_COUNT - 1)


def damage_finding(error: BaseException | None, noun: str = "event", looked_at: int = 0) -> Finding:
    """Returns the finding of the check `readable`: a fault for an error, none without one."""
    finding = Finding(Check.READABLE, noun, looked_at)
    if isinstance(error, asyncpg.PostgresError):
        finding.add_fault("files of the database", str(error), expected="readable", found=f"SQLSTATE {error.sqlstate}")
    return finding


class Snapshot:
    """The database as of `taken_at`."""

    def __init__(self, connection: Connection, taken_at: datetime) -> None:
        self._connection = connection
        self.taken_at = taken_at

    async def rows(self, statement: str, *arguments: object) -> Sequence[Record]:
        """All rows of a statement that gives few."""
        return await self._connection.fetch(statement, *arguments)

    async def row(self, statement: str, *arguments: object) -> Record | None:
        """The first row of a statement, if it gives any."""
        return await self._connection.fetchrow(statement, *arguments)

    @asynccontextmanager
    async def joining_whole_tables(self) -> AsyncIterator[None]:
        """For joins on columns without an index, which only hashing or sorting both sides can do.

        On tables that nobody has analyzed, as after a restore, the planner thinks a loop of look-ups cheaper: hours.
        """
        await self._connection.execute(SQL.refuse_loops)
        yield
        # Not where a statement failed: then the transaction is over, and the setting with it.
        await self._connection.execute(SQL.allow_loops)

    async def stream(self, statement: str, *arguments: object) -> AsyncIterator[Sequence[Record]]:
        """The rows of a statement that gives many, some thousand at a time."""
        cursor = await self._connection.cursor(statement, *arguments)
        while rows := await cursor.fetch(ROWS_FETCHED):
            yield rows


@asynccontextmanager
async def open_snapshot(dsn: str) -> AsyncIterator[Snapshot]:
    """A snapshot on a connection of its own. Raises NotMigrated, or one of DATABASE_ERRORS."""
    async with (
        session(dsn, application_name="wallet verify", statement_seconds=STATEMENT_SECONDS) as connection,
        snapshot_on(connection) as snapshot,
    ):
        yield snapshot


@asynccontextmanager
async def snapshot_on(connection: Connection) -> AsyncIterator[Snapshot]:
    """A snapshot on a connection that has no transaction open."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(SQL.read_at_length)
        yield Snapshot(connection, await connection.fetchval(SQL.read_clock))
