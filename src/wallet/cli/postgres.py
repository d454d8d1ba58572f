"""`wallet postgres`: one of PostgreSQL's own programs, on the wallet's database."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from wallet.cli.children import become
from wallet.cli.database import DataDirectory, NoDatabase, find_database
from wallet.postgres.programs import environment_of, find_program
from wallet.settings import InvalidSettings, load_settings

Program = Annotated[str, typer.Argument(help="psql, pg_dump, pg_restore, createdb, pg_basebackup, …")]
Arguments = Annotated[list[str] | None, typer.Argument(help="What the program is given; see its own --help.")]


def postgres(program: Program, arguments: Arguments = None, data: DataDirectory = Path("data")) -> None:
    """Run one of PostgreSQL's own programs on the wallet's database, password and all.

    The programs are those that come with the wallet, else the PATH's. Options of this command stand before the program.
    """
    path = find_program(program)
    if path is None:
        _give_up(f"{program!r} is no program of PostgreSQL that is here; psql and pg_dump are, for example.")
    try:
        dsn = find_database(load_settings(), data)
    except (InvalidSettings, NoDatabase) as error:
        _give_up(str(error))
    become(path, arguments or [], environment=environment_of(dsn))


def _give_up(message: str) -> NoReturn:
    typer.echo(f"wallet: {message}", err=True)
    sys.exit(2)
