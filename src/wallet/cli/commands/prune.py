"""`wallet prune`: deletes old rows of the audit trail, and nothing else."""

import asyncio
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from wallet.cli.app import Panel, app
from wallet.cli.errands import EXIT_DONE, EXIT_WRONG_CALL, complain, give_up, print_json, run_errand
from wallet.cli.options import Actor, AsJson, checked_text, decisions_logged, user_of_this_process
from wallet.cli.running_up import DATA, DataDirectory, find_system
from wallet.postgres.session import session
from wallet.runtime.settings import load_settings
from wallet.trail.pruning import prune_trail_rows

Before = Annotated[
    str, typer.Option("--audit-before", help="RFC 3339 with an offset, such as 2026-01-31T00:00:00Z; in the past.")
]
Reason = Annotated[str, typer.Option(help="Why the rows may be deleted; stored in the record.", callback=checked_text)]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; required where there is no terminal.")]


@app.command(rich_help_panel=Panel.OPERATION)
def prune(
    audit_before: Before,
    reason: Reason,
    actor: Actor = None,
    is_confirmed: Yes = False,
    as_json: AsJson = False,
    data: DataDirectory = DATA,
) -> None:
    """Delete rows of the audit trail older than a time. Events, operations and the journal are never pruned.

    Asks first. What was deleted, by whom and why is recorded permanently in the table trail_prunings, and in
    LOG_DIR/prune.log. Safe to run while the system is in use, and to run again.

    Exit code 0: done. 2: a wrong call or value, or no confirmation. 3: the database can't be reached.
    """
    before = _read_time(audit_before)
    if before is None or before >= datetime.now(UTC):
        give_up(f"--audit-before {audit_before!r} is not a past time with an offset, like 2026-01-31T00:00:00Z.")

    def work() -> int:
        if not (is_confirmed or _is_confirmed(before)):
            return complain(
                "Nothing was deleted: not confirmed. Without a terminal, confirm with --yes.", EXIT_WRONG_CALL
            )
        settings = find_system(load_settings(), data)
        with decisions_logged(settings, "prune"):
            count = asyncio.run(_prune(settings.dsn, before, actor or user_of_this_process(), reason))
        if as_json:
            print_json({"auditBefore": before.isoformat(), "deleted": count})
        else:
            typer.echo(
                f"{count} rows of the audit trail older than {before.isoformat()} are deleted; "
                "trail_prunings has the record"
            )
        return EXIT_DONE

    again = "The deleted rows are recorded; run this again to continue."
    sys.exit(run_errand(work, interrupted=again, when_away=again))


def _is_confirmed(before: datetime) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    question = f"Delete every row of the audit trail older than {before.isoformat()}? This can't be undone. [y/N]: "
    # Read here, because typer's own prompt does not distinguish Ctrl-C from Ctrl-D, which means "no".
    typer.echo(question, nl=False, err=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


async def _prune(dsn: str, before: datetime, actor: str, reason: str) -> int:
    async with session(dsn, application_name="wallet prune") as connection:
        return await prune_trail_rows(connection, before, actor=actor, reason=reason)


def _read_time(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment.astimezone(UTC)
