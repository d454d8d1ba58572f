"""`wallet migrate`: brings the database to this version, and waits for a database that is not reachable yet."""

import asyncio
import sys
import time
from typing import Annotated, Final

import typer

from wallet.cli.app import Panel, app
from wallet.cli.errands import EXIT_DONE, print_json, run_errand
from wallet.cli.options import AsJson, duration
from wallet.cli.running_up import DATA, DataDirectory, find_database
from wallet.postgres.connections import connect
from wallet.postgres.errors import DATABASE_ERRORS, Cause, cause_of, sentence_about
from wallet.postgres.migrations import migrate
from wallet.runtime.settings import load_settings

WAIT_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 0.5

Wait = Annotated[
    float,
    typer.Option(help="How long to wait for a database that can't be reached.", parser=duration, metavar="SECONDS"),
]


@app.command("migrate", rich_help_panel=Panel.OPERATION)
def migrate_command(wait: Wait = WAIT_SECONDS, as_json: AsJson = False, data: DataDirectory = DATA) -> None:
    """Bring the database's tables to this version. Safe to run again, and by several at once.

    Waits for its database, as the other processes do, but only as long as --wait allows.

    Exit code 0: done. 1: a migration could not be applied. 2: a wrong call or setting. 3: the database can't be
    reached.
    """

    def work() -> int:
        dsn = find_database(load_settings(), data)
        applied = asyncio.run(_migrate(dsn, wait))
        if as_json:
            print_json({"applied": applied})
            return EXIT_DONE
        for name in applied:
            typer.echo(f"applied {name}")
        if not applied:
            typer.echo("nothing to apply: the database is at this version")
        return EXIT_DONE

    hint = "What was not applied is applied when this is run again."
    sys.exit(run_errand(work, interrupted="run it again to go on", when_away=hint))


async def _migrate(dsn: str, wait_seconds: float) -> list[str]:
    await _wait_for_database(dsn, wait_seconds)
    return await migrate(dsn, tell=lambda line: typer.echo(line, err=True))


async def _wait_for_database(dsn: str, seconds: float) -> None:
    """Return when the database responds. Raises the last error after the time limit, or at once if waiting can't fix
    it.
    """
    give_up_at_seconds = time.monotonic() + seconds
    is_told = False
    while True:
        try:
            connection = await connect(dsn, application_name="wallet migrate")
        except DATABASE_ERRORS as error:
            if cause_of(error) not in (Cause.AWAY, Cause.BUSY) or time.monotonic() >= give_up_at_seconds:
                raise
            if not is_told:
                typer.echo(f"{sentence_about(error)}; waiting {seconds:g} s for it", err=True)
                is_told = True
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            await connection.close()
            return
