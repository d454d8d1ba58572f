"""Runs `verify` for a test and returns its findings; changes books as their owner, with all triggers disabled."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from tests.support.database import connected
from wallet.integrity.checks.delivery import EFFECT_WITHIN
from wallet.integrity.checks.heads import ExportedHeads
from wallet.integrity.findings import Check, Finding, Observer, Pass
from wallet.integrity.verify import Proof, verify
from wallet.postgres.connections import Connection

GUARDED: Final = ("events", "operations", "transfers", "transfer_credits", "journal", "api_audit", "trail_prunings")


class Unobserved(Observer):
    """An observer that shows nothing."""

    def begin(self, title: str, unit: str, total: int) -> None:
        """Nothing to show."""

    def advance(self, count: int) -> None:
        """Nothing to show."""

    def end(self, done: Pass) -> None:
        """Nothing to show."""


async def proof_of(database_url: str, heads: Path | None = None, *, effect_within: timedelta = EFFECT_WITHIN) -> Proof:
    """Verify a database."""
    exported = None if heads is None else ExportedHeads.of(heads)
    return await verify(database_url, Unobserved(), exported, effect_within)


async def faults_of(
    database_url: str, heads: Path | None = None, *, effect_within: timedelta = EFFECT_WITHIN
) -> dict[Check, Finding]:
    """Returns the findings with a fault, by check."""
    proof = await proof_of(database_url, heads, effect_within=effect_within)
    return {finding.check: finding for finding in proof.findings if finding.fault_count}


@asynccontextmanager
async def as_owner(database_url: str) -> AsyncIterator[Connection]:
    """Yields a connection of the tables' owner, with all triggers of the guarded tables disabled."""
    async with connected(database_url) as connection:
        for table in GUARDED:
            await connection.execute(f"alter table {table} disable trigger all")
        yield connection
        for table in GUARDED:
            await connection.execute(f"alter table {table} enable trigger all")
