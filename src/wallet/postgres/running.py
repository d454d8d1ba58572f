"""Finds the embedded server that `wallet up` keeps running, for the commands that are run beside it."""

from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from wallet.postgres.embedded import DATABASE, USER
from wallet.postgres.unprivileged import stand_in_of

PORT_LINE = 3
"""Where postmaster.pid, whose lines have fixed meanings, holds the port."""


def running_dsn(data_dir: Path, database: str = DATABASE) -> str | None:
    """The address of a database on this data directory's server; None where none runs, or none that we may know of."""
    asked = data_dir.resolve()
    for directory in (asked, stand_in_of(asked)):
        with suppress(OSError, IndexError):
            lines = (directory / "pgdata" / "postmaster.pid").read_text().splitlines()
            password = (directory / "password").read_text()
            return f"postgresql://{USER}:{password}@127.0.0.1:{lines[PORT_LINE]}/{quote(database, safe='')}"
    return None
