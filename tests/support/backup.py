"""Dumps and restores for a test, by PostgreSQL's own programs, as `./wallet postgres` runs them."""

import os
import subprocess
from pathlib import Path

from wallet.postgres.programs import environment_of, find_program

COPY_SECONDS_MAX = 60.0


def dump(database_url: str, file: Path) -> None:
    """One snapshot of a database, in a file."""
    _run("pg_dump", database_url, "--format=custom", f"--file={file}")


def restore(database_url: str, file: Path) -> None:
    """A dump's content, in an empty database."""
    _run("pg_restore", database_url, "--dbname=", "--exit-on-error", "--single-transaction", "--no-owner", str(file))


def _run(name: str, database_url: str, *arguments: str) -> None:
    program = find_program(name)
    assert program is not None
    environment = {**os.environ, **environment_of(database_url)}
    subprocess.run([program, *arguments], env=environment, check=True, timeout=COPY_SECONDS_MAX)
