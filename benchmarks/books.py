"""Checks of the books: whether they are correct, and when all events have been processed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from benchmarks.ground import query
from benchmarks.verdicts import InvalidRun

ROOT: Final = Path(__file__).parents[1]
VERIFY_SECONDS_MAX: Final = 900
DRAIN_SECONDS_MAX: Final = 600
POLL_SECONDS: Final = 0.5
LINES_SHOWN: Final = 6

UNPUBLISHED: Final = """
select exists (select from journal where position is null)
    or exists (select from journal where position is not null and published_at is null)
"""
UNPROCESSED: Final = "select (select count(*) from events) - (select count(*) from processed_events)"
QUIET_AT: Final = """
select greatest((select max(published_at) from journal), (select max(processed_at) from processed_events))
"""
FAILED: Final = "select count(*) from processed_events where status <> 'success'"


@dataclass(frozen=True, slots=True)
class Drained:
    """The moment from which no event was waiting, and the seconds from the end of the load to that moment."""

    quiet_at: datetime
    seconds: float


def errand(database_url: str, *arguments: str, directory: Path) -> str:
    """Runs one of the wallet's commands on a database. Returns its output. Raises InvalidRun if the command fails."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), "LANG": "C.UTF-8"}
    finished = subprocess.run(
        [sys.executable, "-P", "-m", "wallet", *arguments],
        env=environment | {"DATABASE_URL": database_url, "LOG_DIR": str(directory)},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=VERIFY_SECONDS_MAX,
    )
    if finished.returncode != 0:
        lines = f"{finished.stdout}{finished.stderr}".strip().splitlines()
        raise InvalidRun(f"wallet {arguments[0]}: " + "\n".join(lines[-LINES_SHOWN:]))
    return finished.stdout


def expect_right_books(database_url: str, *, directory: Path) -> str:
    """Checks the books with `wallet verify`. Returns its last line. Raises InvalidRun if they are wrong."""
    return errand(database_url, "verify", directory=directory).strip().splitlines()[-1]


def now(database_url: str) -> datetime:
    """Returns the time of PostgreSQL's clock."""
    [(moment,)] = query(database_url, "select clock_timestamp()")
    assert isinstance(moment, datetime)
    return moment


def drain(database_url: str, *, since: datetime) -> Drained:
    """Waits until every batch is sealed and published and every event is processed. Raises InvalidRun."""
    wait_until(lambda: not query(database_url, UNPUBLISHED)[0][0], "batches are still unpublished")
    wait_until(lambda: query(database_url, UNPROCESSED)[0][0] == 0, "events are still unprocessed")
    if query(database_url, FAILED)[0][0]:
        raise InvalidRun("some events became dead letters")
    [(quiet_at,)] = query(database_url, QUIET_AT)
    return Drained(quiet_at, max((quiet_at - since).total_seconds(), 0.0))


def wait_until(condition: Callable[[], bool], otherwise: str, *, seconds_max: float = DRAIN_SECONDS_MAX) -> None:
    """Polls the condition until it is true, seldom enough not to disturb the measurement. Raises InvalidRun."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() > deadline:
            raise InvalidRun(f"{otherwise} after {seconds_max:g} s")
        time.sleep(POLL_SECONDS)
