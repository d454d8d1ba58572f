"""Plain SQL migrations, applied in order of their number, each once and never edited afterwards.

Migrations may run while the system is in use. A session that waits for an exclusive lock makes every later session wait
behind it. So a migration waits only a moment for its locks; if it does not get one, it releases all and tries again.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Final

import asyncpg

from wallet.postgres.connections import AnyConnection, connect

_CREATE_MIGRATIONS_TABLE = """
    create table if not exists schema_migrations (
        version    integer     not null,
        name       text        not null,
        checksum   text        not null,
        applied_at timestamptz not null default now(),
        constraint schema_migrations_pkey primary key (version)
    )
"""
# Sessions that wait behind this one give up after the 500 ms of `LOCK_MS`. This limit leaves them enough time.
_WAIT_A_MOMENT: Final = "set local lock_timeout = '200ms'"
LOCK_PAUSE_SECONDS: Final = 0.5
LOCK_ATTEMPTS_MAX: Final = 90
# The limit of the wait for another `wallet migrate`. It is long, as no other session waits behind this one then.
TURN_MS: Final = 600_000
# A migration that has no lock that other sessions need may run for a long time.
STATEMENT_SECONDS: Final = 24 * 3600.0

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


class MigrationError(Exception):
    """The database's migrations are not this version's; the message states which and what to do."""


class MigrationBlocked(MigrationError):
    """A migration did not get its locks in all the time that it had."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration file: its number, name, text, and the checksum that the database stores."""

    version: int
    name: str
    sql: str
    checksum: str

    @property
    def full_name(self) -> str:
        """The name of the file without its extension."""
        return f"{self.version:04d}_{self.name}"


def read_migrations() -> list[Migration]:
    """Returns all migrations of this version, in order."""
    found = [
        Migration(int(match[1]), match[2], sql, sha256(sql.encode()).hexdigest())
        for file in files(__name__).iterdir()
        if (match := _FILE.fullmatch(file.name)) and (sql := file.read_text(encoding="utf-8"))
    ]
    found.sort(key=lambda migration: migration.version)
    assert [migration.version for migration in found] == list(range(1, len(found) + 1))
    return found


async def migrate(dsn: str, tell: Callable[[str], None] = lambda line: None) -> list[str]:
    """Apply the missing migrations. Returns the names of those that were applied now.

    Several processes may do this at once, because they queue for the same table lock. Each migration is one
    transaction. Raises MigrationError if an applied migration differs from its file, or MigrationBlocked if other
    sessions have the locks that it needs. `tell` is called when a migration begins to wait for locks.
    """
    connection = await connect(
        dsn, application_name="wallet migrate", lock_ms=TURN_MS, statement_seconds=STATEMENT_SECONDS
    )
    try:
        await _create_migrations_table(connection)
        return [each.full_name for each in read_migrations() if await _apply_when_free(connection, each, tell)]
    finally:
        await connection.close()


async def missing_migrations(connection: AnyConnection) -> list[str]:
    """Returns the names of the migrations that this version needs and that the database does not have."""
    exists = await connection.fetchval("select to_regclass('schema_migrations') is not null")
    applied = set(await _applied_versions(connection)) if exists else set()
    return [m.full_name for m in read_migrations() if m.version not in applied]


async def _create_migrations_table(connection: AnyConnection) -> None:
    # Two concurrent `create table if not exists` can collide in the catalogue: check first, and ignore a collision.
    if await connection.fetchval("select to_regclass('schema_migrations') is not null"):
        return
    with contextlib.suppress(asyncpg.UniqueViolationError, asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError):
        await connection.execute(_CREATE_MIGRATIONS_TABLE)


async def _apply_when_free(connection: AnyConnection, migration: Migration, tell: Callable[[str], None]) -> bool:
    attempt = 1
    while True:
        try:
            return await _apply(connection, migration)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if attempt == LOCK_ATTEMPTS_MAX:
                raise MigrationBlocked(
                    f"Migration {migration.full_name} did not get its locks in {LOCK_ATTEMPTS_MAX} attempts; nothing "
                    "of it was applied. A dump, `wallet verify` or a forgotten session holds them: pg_stat_activity "
                    "names it. Run this again when it has ended."
                ) from error
            if attempt == 1:
                tell(f"{migration.full_name} waits for what it must lock; others go on meanwhile")
        attempt += 1
        await asyncio.sleep(LOCK_PAUSE_SECONDS)


async def _apply(connection: AnyConnection, migration: Migration) -> bool:
    async with connection.transaction():
        await connection.execute("lock table schema_migrations in exclusive mode")
        applied = await _applied_versions(connection)
        if migration.version in applied:
            if applied[migration.version] != migration.checksum:
                raise MigrationError(
                    f"Migration {migration.full_name} was changed after it was applied. "
                    "Restore the file and write a new migration instead."
                )
            return False
        await connection.execute(_WAIT_A_MOMENT)
        await connection.execute(migration.sql)
        await connection.execute(
            "insert into schema_migrations (version, name, checksum) values ($1, $2, $3)",
            migration.version,
            migration.name,
            migration.checksum,
        )
        return True


async def _applied_versions(connection: AnyConnection) -> dict[int, str]:
    rows = await connection.fetch("select version, checksum from schema_migrations")
    return {row["version"]: row["checksum"] for row in rows}
