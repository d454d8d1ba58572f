"""The records that each running `wallet up` writes, so that other commands of the same user find it without options.

A record is a file with mode 0600 in the user's state directory. It contains the directory in which `up` was started,
its address, its data directory and the settings that other commands need. It is removed at the end. `up` holds a lock
on it that the kernel releases however `up` ends. So the record of a killed `up` is recognised, and the next command
removes it.

A command uses the database that the settings name, or else that of a running `wallet up`.
"""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import SecretStr

from wallet.postgres.embedded import running_dsn
from wallet.runtime.settings import Settings, settings_of_group

_SHARED_SETTINGS: Final = frozenset(
    name for group in ("PostgreSQL", "RabbitMQ", "Fraud rules") for name in settings_of_group(group)
)
"""The settings that another command must share with `up`. Where a command logs and listens is not shared."""
DATA: Final = Path("data")
"""Where `wallet up` keeps its data by default. As an option value it means: search for a running `up`."""
DataDirectory = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="DIR",
        help="The data of a running `wallet up`. Needed only where several run.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class RunningUp:
    """One running `wallet up`. `data` is None if it uses a database that its settings name."""

    pid: int
    directory: str
    url: str
    data: str | None
    settings: dict[str, str]

    def apply_to(self, settings: Settings) -> Settings:
        """Returns the settings, completed with those of this `up` that are not set already."""
        known = {name: text for name, text in self.settings.items() if name in _SHARED_SETTINGS}
        own = {name: getattr(settings, name) for name in settings.model_fields_set}
        return Settings(**{**known, **own})


class SeveralRun(Exception):
    """Several `wallet up`s run; the message names them."""


@contextmanager
def recorded(settings: Settings, *, url: str, data: Path | None) -> Iterator[None]:
    """Make this `up` visible to other commands while inside the block. If no record can be written, `up` still runs."""
    record = RunningUp(
        pid=os.getpid(),
        directory=str(Path.cwd()),
        url=url,
        data=None if data is None else str(data.resolve()),
        settings={
            name: _text(getattr(settings, name)) for name in sorted(_SHARED_SETTINGS & settings.model_fields_set)
        },
    )
    path = None
    with suppress(OSError, RuntimeError):
        path = _write(record)
    try:
        yield
    finally:
        if path is not None:
            path[0].unlink(missing_ok=True)
            os.close(path[1])


def find_running_up_on(data: Path) -> RunningUp | None:
    """Returns the `up` that keeps its data in this directory."""
    asked = str(data.resolve())
    return next((each for each in _read_all() if each.data == asked), None)


def find_running_up() -> RunningUp | None:
    """Returns the `up` that was started in this directory, else the only one. Raises SeveralRun."""
    found = _read_all()
    here = str(Path.cwd())
    candidates = [each for each in found if each.directory == here] or found
    if len(candidates) > 1:
        named = ", ".join(f"{each.url} (started in {each.directory})" for each in candidates)
        raise SeveralRun(f"Several `wallet up`s run: {named}. Run this in the directory of one of them")
    return candidates[0] if candidates else None


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _directory() -> Path:
    return Path.home() / ".local" / "state" / "wallet" / "up"


def _write(record: RunningUp) -> tuple[Path, int]:
    """Returns the file and the descriptor that holds its lock. The file appears complete and locked, because it is
    renamed.
    """
    directory = _directory()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / f"{record.pid}.json"
    descriptor, unfinished = tempfile.mkstemp(dir=directory, prefix=".")
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, json.dumps(asdict(record)).encode())
    Path(unfinished).rename(path)
    return path, descriptor


def _read_all() -> list[RunningUp]:
    found = []
    with suppress(OSError, RuntimeError):
        for path in sorted(_directory().glob("*.json")):
            with suppress(OSError, ValueError, TypeError), path.open("rb") as file:
                if _is_locked(file.fileno()):
                    found.append(RunningUp(**json.load(file)))
                else:
                    path.unlink(missing_ok=True)
    return found


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


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
    """Returns the address, password included. Raises NoDatabase."""
    return find_system(settings, data_dir).dsn
