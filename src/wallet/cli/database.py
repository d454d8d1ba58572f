"""Which database a command is about: the one that the settings name, else DB_NAME of a running `wallet up`."""

from pathlib import Path
from typing import Annotated

import typer

from wallet.postgres.running import running_dsn
from wallet.settings import Settings

DataDirectory = Annotated[
    Path, typer.Option("--data", help="The data of a running `wallet up`; used where no database is named.")
]


class NoDatabase(Exception):
    """No database is named, and no `wallet up` runs here."""


def find_database(settings: Settings, data_dir: Path) -> str:
    """The address, password included. Raises NoDatabase."""
    dsn = settings.dsn if settings.has_database else running_dsn(data_dir, settings.db_name)
    if dsn is None:
        raise NoDatabase(
            f"No database is named, and no `wallet up` runs on {data_dir}/: set DATABASE_URL or DB_HOST, "
            "or give --data."
        )
    return dsn
