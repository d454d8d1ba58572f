"""Which system a command works on: the database that the settings name, else that of a running `wallet up`."""

from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import SecretStr

from wallet.cli.running_up import SeveralRun, find_running_up, find_running_up_on
from wallet.postgres.running import running_dsn
from wallet.runtime.settings import Settings

DATA: Final = Path("data")
"""Where `wallet up` keeps its data by default; as an option it means: look for a running `up`."""

DataDirectory = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="DIR",
        help="The data of a running `wallet up`. Needed only where several run.",
        show_default=False,
    ),
]


class NoDatabase(Exception):
    """No database is named, and no `wallet up` runs here."""


def find_system(settings: Settings, data_dir: Path) -> Settings:
    """Returns the settings, completed from a running `up` where they name no database. Raises NoDatabase."""
    if settings.has_database:
        return settings
    try:
        up = find_running_up_on(data_dir) or (find_running_up() if data_dir == DATA else None)
    except SeveralRun as error:
        raise NoDatabase(f"{error}, or give --data, DATABASE_URL or DB_HOST.") from None
    if up is not None and up.directory != str(Path.cwd()):
        typer.echo(f"wallet: this is about the `wallet up` at {up.url}, started in {up.directory}", err=True)
    chosen = settings if up is None else up.apply_to(settings)
    if chosen.has_database:
        return chosen
    dsn = running_dsn(Path(up.data) if up is not None and up.data else data_dir, chosen.db_name)
    if dsn is None:
        raise NoDatabase(
            f"No database is named, and no `wallet up` runs on {data_dir}/: set DATABASE_URL or DB_HOST, "
            "start `wallet up`, or give --data."
        )
    return chosen.model_copy(update={"database_url": SecretStr(dsn)})


def find_database(settings: Settings, data_dir: Path) -> str:
    """The address, password included. Raises NoDatabase."""
    return find_system(settings, data_dir).dsn
