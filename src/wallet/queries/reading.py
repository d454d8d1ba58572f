"""Runs one read-only statement, which returns within its time limit or fails with a reason that the client can use.

Also reads what readiness depends on: durability, the schema, and the backlog of events.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog
from asyncpg import Record

from wallet.postgres.connections import AnyConnection, Pool
from wallet.postgres.errors import DATABASE_ERRORS, Failure, failure_of
from wallet.postgres.statements import load_statements
from wallet.runtime.errors import ExplainedError
from wallet.runtime.loop import retried

READ_SECONDS_MAX: Final = 4.0
TRIES_MAX: Final = 3

_log = structlog.get_logger("wallet.queries")
_SQL: Final = load_statements("wallet.queries", "queries.sql")
_DURABLE_COMMITS: Final = frozenset({"on", "remote_apply"})


class ReadFailed(ExplainedError):
    """The database did not answer in time."""


async def fetch(pool: Pool, statement: str, *arguments: object) -> list[Record]:
    """Returns the rows of a read-only statement, in one round trip. Raises ReadFailed.

    A read can be repeated safely, so a dead connection is not reported to the client as long as another one responds in
    time.
    """
    try:
        async with asyncio.timeout(READ_SECONDS_MAX):
            return await retried(
                lambda: pool.fetch(statement, *arguments),
                attempts_max=TRIES_MAX,
                errors=DATABASE_ERRORS,
                passes=lambda error: failure_of(error) is Failure.RECONNECT,
            )
    except TimeoutError as error:
        raise ReadFailed from error
    except DATABASE_ERRORS as error:
        if failure_of(error) is Failure.CULPRIT:
            raise
        raise ReadFailed from error


async def fetch_one(pool: Pool, statement: str, *arguments: object) -> Record | None:
    """Returns the first row, or None if there is none. Raises ReadFailed."""
    rows = await fetch(pool, statement, *arguments)
    return rows[0] if rows else None


@dataclass(frozen=True, slots=True)
class OldestWaiting:
    """The oldest batch that waits for a step of publication; a `key` of None means that none waits."""

    key: int | None
    seconds: float
    """Its age by PostgreSQL's clock, which may have been changed since it was committed."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """How far sealing and publishing are behind the log."""

    unsealed: OldestWaiting
    unpublished: OldestWaiting


async def durability_faults(connection: AnyConnection) -> list[str]:
    """Returns the settings under which an acknowledged commit could be lost; the list should be empty."""
    row = await connection.fetchrow(_SQL.durability)
    assert row is not None
    faults = [f"{name} is {row[name]}" for name in ("fsync", "full_page_writes") if row[name] != "on"]
    if row["synchronous_commit"] not in _DURABLE_COMMITS:
        faults.append(f"synchronous_commit is {row['synchronous_commit']}")
    if row["is_standby"]:
        faults.append("the server is a standby")
    return faults


async def backlog_of(connection: AnyConnection) -> Backlog:
    """Returns how far sealing and publishing are behind."""
    row = await connection.fetchrow(_SQL.backlog)
    assert row is not None
    return Backlog(
        OldestWaiting(row["unsealed_seq"], max(0.0, row["unsealed_seconds"] or 0.0)),
        OldestWaiting(row["unpublished_position"], max(0.0, row["unpublished_seconds"] or 0.0)),
    )
