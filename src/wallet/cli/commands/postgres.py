"""`wallet postgres`: one of PostgreSQL's own programs, on the wallet's database."""

import sys
from typing import Annotated, NoReturn

import typer

from wallet.cli.app import Panel, app
from wallet.cli.errands import give_up, run_errand
from wallet.cli.processes.children import become
from wallet.cli.running_up import DATA, DataDirectory, find_database
from wallet.postgres.programs import environment_of, find_program
from wallet.runtime.settings import load_settings

Program = Annotated[str, typer.Argument(help="psql, pg_dump, pg_restore, createdb, pg_basebackup, …")]
Arguments = Annotated[list[str] | None, typer.Argument(help="What the program is given; see its own --help.")]


# Arguments after the program's name belong to the program, including options.
@app.command(context_settings={"allow_interspersed_args": False}, rich_help_panel=Panel.OPERATION)
def postgres(program: Program, arguments: Arguments = None, data: DataDirectory = DATA) -> None:
    """Run one of PostgreSQL's own programs on the wallet's database, password and all.

    The programs are those that come with the wallet, else the PATH's. Options of this command stand before the program.
    """
    path = find_program(program)
    if path is None:
        give_up(f"{program!r} is no program of PostgreSQL that is here; psql and pg_dump are, for example.")
    chosen = path

    def work() -> NoReturn:
        dsn = find_database(load_settings(), data)
        become(chosen, arguments or [], environment=environment_of(dsn))

    sys.exit(run_errand(work, interrupted="the program was not started"))
