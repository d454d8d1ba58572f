"""Plain SQL migrations, applied in order of their number, each once and never edited afterwards."""

import contextlib
import re
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING

import asyncpg

from wallet.postgres.connections import connect

if TYPE_CHECKING:
    from wallet.postgres.connections import AnyConnection

_CREATE_MIGRATIONS_TABLE = """
    create table if not exists schema_migrations (
        version    integer     not null,
        name       text        not null,
        checksum   text        not null,
        applied_at timestamptz not null default now(),
        constraint schema_migrations_pkey primary key (version)
    )
"""
_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


class MigrationError(Exception):
    """The database's migrations are not this version's; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, name, text and the checksum that the database remembers."""

    version: int
    name: str
    sql: str
    checksum: str

    @property
    def full_name(self) -> str:
        """The file's name without its ending."""
        return f"{self.version:04d}_{self.name}"


def read_migrations() -> list[Migration]:
    """All migrations of this version, in order."""
    found = [
        Migration(int(match[1]), match[2], sql, sha256(sql.encode()).hexdigest())
        for file in files(__name__).iterdir()
        if (match := _FILE.fullmatch(file.name)) and (sql := file.read_text(encoding="utf-8"))
    ]
    found.sort(key=lambda migration: migration.version)
    assert [migration.version for migration in found] == list(range(1, len(found) + 1))
    return found


async def migrate(dsn: str) -> list[str]:
    """Bring the database to this version; returns the names of the migrations applied now.

    Safe when several processes do it at once: they queue for the same table lock. Each migration is one
    transaction. Raises MigrationError where an applied one differs from its file.
    """
    connection = await connect(dsn, application_name="wallet migrate")
    try:
        await connection.execute("set lock_timeout = '60s'; set statement_timeout = 0")
        await _create_migrations_table(connection)
        return [migration.full_name for migration in read_migrations() if await _apply(connection, migration)]
    finally:
        await connection.close()


async def missing_migrations(connection: "AnyConnection") -> list[str]:
    """The names of the migrations this version needs and the database does not have."""
    exists = await connection.fetchval("select to_regclass('schema_migrations') is not null")
    applied = set(await _applied_versions(connection)) if exists else set()
    return [m.full_name for m in read_migrations() if m.version not in applied]


async def _create_migrations_table(connection: "AnyConnection") -> None:
    # Two `create table if not exists` at once can collide in the catalogue, so look first and forgive a collision.
    if await connection.fetchval("select to_regclass('schema_migrations') is not null"):
        return
    with contextlib.suppress(asyncpg.UniqueViolationError, asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError):
        await connection.execute(_CREATE_MIGRATIONS_TABLE)


async def _apply(connection: "AnyConnection", migration: Migration) -> bool:
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
        await connection.execute(migration.sql)
        await connection.execute(
            "insert into schema_migrations (version, name, checksum) values ($1, $2, $3)",
            migration.version,
            migration.name,
            migration.checksum,
        )
        return True


async def _applied_versions(connection: "AnyConnection") -> dict[int, str]:
    rows = await connection.fetch("select version, checksum from schema_migrations")
    return {row["version"]: row["checksum"] for row in rows}
