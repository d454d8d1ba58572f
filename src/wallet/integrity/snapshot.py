"""One snapshot of the database, kept open for as long as a check takes.

A REPEATABLE READ transaction sees all of every commit before its first statement and nothing of later ones, so a
running system causes no false alarm. It only reads and locks no row, so writers never wait for it. The only cost is
that vacuum keeps the rows of the snapshot until the transaction ends.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg
from asyncpg import Record

from wallet.domain.identifiers import BUCKET_COUNT
from wallet.domain.wallet import NOT_COMPARED_YET, Wallet
from wallet.integrity.findings import Check, Finding
from wallet.postgres.connections import Connection
from wallet.postgres.session import session
from wallet.postgres.statements import load_statements

EVOLVED: Final = tuple(
    name
    for name in Wallet.__struct_fields__
    if name not in {"wallet_id", "version", "balance"} and name not in NOT_COMPARED_YET
)
"""The columns of a wallet's row, besides its version and its balance, that must equal the fold of its events."""
SQL: Final = load_statements(
    "wallet.integrity.checks",
    "checks.sql",
    # As text, because a value that another program wrote may have no equal in Python.
    wallet_columns="".join(f", w.{name}::text as stored_{name}" for name in EVOLVED),
    stored_columns="".join(f", w.stored_{name}" for name in EVOLVED),
)

# One statement reads and sorts a whole table; this is its time limit.
STATEMENT_SECONDS: Final = 3600.0
ROWS_FETCHED: Final = 2_000


class Buckets(NamedTuple):
    """The wallets that a check covers, from one bucket to another, inclusive."""

    first: int
    last: int


ALL_BUCKETS: Final = Buckets(0, BUCKET_COUNT - 1)


def damage_finding(error: BaseException | None, noun: str = "event", checked_count: int = 0) -> Finding:
    """Returns the finding of the check `readable`: with a fault if there is an error, without one otherwise."""
    finding = Finding(Check.READABLE, noun, checked_count)
    if isinstance(error, asyncpg.PostgresError):
        finding.add_fault("files of the database", str(error), expected="readable", found=f"SQLSTATE {error.sqlstate}")
    return finding


class Snapshot:
    """The database as of `taken_at`."""

    def __init__(self, connection: Connection, taken_at: datetime) -> None:
        self._connection = connection
        self.taken_at = taken_at

    async def rows(self, statement: str, *arguments: object) -> Sequence[Record]:
        """Returns all rows of a statement that returns few."""
        return await self._connection.fetch(statement, *arguments)

    async def row(self, statement: str, *arguments: object) -> Record | None:
        """Returns the first row of a statement, if there is one."""
        return await self._connection.fetchrow(statement, *arguments)

    @asynccontextmanager
    async def joining_whole_tables(self) -> AsyncIterator[None]:
        """Disables nested loops inside the block, for joins on columns without an index, which need hashing or sorting.

        On tables that were never analyzed, such as after a restore, the planner expects nested loops to be cheaper;
        they would take hours.
        """
        await self._connection.execute(SQL.refuse_loops)
        yield
        # This does not run if a statement failed: then the transaction is over, and the setting with it.
        await self._connection.execute(SQL.allow_loops)

    async def stream(self, statement: str, *arguments: object) -> AsyncIterator[Sequence[Record]]:
        """Yields the rows of a statement that returns many, some thousand at a time."""
        cursor = await self._connection.cursor(statement, *arguments)
        while rows := await cursor.fetch(ROWS_FETCHED):
            yield rows


@asynccontextmanager
async def open_snapshot(dsn: str) -> AsyncIterator[Snapshot]:
    """Yields a snapshot on a new connection. Raises NotMigrated, or one of DATABASE_ERRORS."""
    async with (
        session(dsn, application_name="wallet verify", statement_seconds=STATEMENT_SECONDS) as connection,
        snapshot_on(connection) as snapshot,
    ):
        yield snapshot


@asynccontextmanager
async def snapshot_on(connection: Connection) -> AsyncIterator[Snapshot]:
    """Yields a snapshot on a connection that has no transaction open."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(SQL.read_at_length)
        yield Snapshot(connection, await connection.fetchval(SQL.read_clock))
