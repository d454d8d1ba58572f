"""`wallet prune`: lets old audit rows go, and nothing else."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from wallet.cli.database import DataDirectory, NoDatabase, find_database
from wallet.ledger.pruning import prune_audit_rows
from wallet.postgres.connections import connect
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.settings import InvalidSettings, load_settings

AuditBefore = Annotated[
    str, typer.Option("--audit-before", help="RFC 3339 with an offset, such as 2026-01-31T00:00:00Z; in the past.")
]


def prune(audit_before: AuditBefore, data: DataDirectory = Path("data")) -> None:
    """Delete audit rows older than a time. Events, operations and the journal are never pruned.

    Safe beside a running system, and to run again. Exit code 0: done. 1: the time is wrong. 2: no database.
    """
    before = _read_time(audit_before)
    if before is None or before >= datetime.now(UTC):
        _give_up(f"--audit-before {audit_before!r} is not a past time with an offset, like 2026-01-31T00:00:00Z.", 1)
    try:
        count = asyncio.run(_prune(find_database(load_settings(), data), before))
    except (InvalidSettings, NoDatabase) as error:
        _give_up(str(error), 2)
    except DATABASE_ERRORS as error:
        _give_up(f"The database failed: {str(error) or type(error).__name__}. Run this again to go on.", 2)
    typer.echo(f"{count} audit rows older than {before.isoformat()} are gone")


async def _prune(dsn: str, before: datetime) -> int:
    connection = await connect(dsn, application_name="wallet prune")
    try:
        return await prune_audit_rows(connection, before)
    finally:
        await connection.close()


def _read_time(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment.astimezone(UTC)


def _give_up(message: str, code: int) -> NoReturn:
    typer.echo(f"wallet: {message}", err=True)
    sys.exit(code)
