"""Processes and their descendants: a process that a test starts leads a session, and its descendants end with it."""

import os
import signal
from contextlib import suppress

import psutil

from tests.support.waiting import eventually_blocking

END_SECONDS_MAX = 10.0


def family_of(pid: int) -> list[psutil.Process]:
    """Returns the process and all its descendants that still run."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def kill_session(leader: int, family: list[psutil.Process]) -> None:
    """Kills the session's process group and the remaining descendants, and waits until all have ended."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until_ended(family)


def wait_until_ended(family: list[psutil.Process], within: float = END_SECONDS_MAX) -> None:
    """Waits until none of the processes runs; a zombie counts as ended, even if its parent has not collected it."""
    eventually_blocking(lambda: not any(map(_runs, family)), within=within)


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
