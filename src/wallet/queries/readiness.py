"""What readiness depends on, asked of the database: durability, the schema, and whether events leave."""

from dataclasses import dataclass
from typing import Final

from wallet.postgres.connections import AnyConnection
from wallet.postgres.statements import load_statements

_STATEMENTS: Final = load_statements("wallet.queries", "queries.sql")
_DURABILITY: Final[str] = _STATEMENTS.durability
_BACKLOG: Final[str] = _STATEMENTS.backlog

_DURABLE_COMMITS: Final = frozenset({"on", "remote_apply"})


@dataclass(frozen=True, slots=True)
class Waiting:
    """The oldest batch that waits for a step on the events' way out; a `key` of None means that none waits."""

    key: int | None
    seconds: float
    """Its age by PostgreSQL's clock, which may have been changed since it was committed."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """How far the events' way out is behind the log."""

    unsealed: Waiting
    unpublished: Waiting


async def durability_faults(connection: AnyConnection) -> list[str]:
    """The settings under which an acknowledged commit could be lost; none is the only good answer."""
    row = await connection.fetchrow(_DURABILITY)
    assert row is not None
    faults = [f"{name} is {row[name]}" for name in ("fsync", "full_page_writes") if row[name] != "on"]
    if row["synchronous_commit"] not in _DURABLE_COMMITS:
        faults.append(f"synchronous_commit is {row['synchronous_commit']}")
    if row["is_standby"]:
        faults.append("the server is a standby")
    return faults


async def backlog_of(connection: AnyConnection) -> Backlog:
    """How far the relay is behind."""
    row = await connection.fetchrow(_BACKLOG)
    assert row is not None
    return Backlog(
        Waiting(row["unsealed_seq"], max(0.0, row["unsealed_seconds"] or 0.0)),
        Waiting(row["unpublished_position"], max(0.0, row["unpublished_seconds"] or 0.0)),
    )
