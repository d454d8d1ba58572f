"""Dumps and restores for a test, with PostgreSQL's own programs, as `./wallet postgres` runs them."""

import os
import subprocess
from pathlib import Path

from wallet.postgres.programs import environment_of, find_program

COPY_SECONDS_MAX = 60.0


def dump(database_url: str, file: Path) -> None:
    """Writes one snapshot of a database to a file."""
    _run("pg_dump", database_url, "--format=custom", f"--file={file}")


def restore(database_url: str, file: Path) -> None:
    """Restores the content of a dump into an empty database."""
    _run("pg_restore", database_url, "--dbname=", "--exit-on-error", "--single-transaction", "--no-owner", str(file))


def _run(name: str, database_url: str, *arguments: str) -> None:
    program = find_program(name)
    assert program is not None
    environment = {**os.environ, **environment_of(database_url)}
    subprocess.run([program, *arguments], env=environment, check=True, timeout=COPY_SECONDS_MAX)
