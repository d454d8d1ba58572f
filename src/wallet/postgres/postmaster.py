"""The first process of a PostgreSQL server: to know it again, and to end it."""

import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

STOP_SECONDS_MAX = 60.0  # A fast shutdown writes one checkpoint.
KILL_SECONDS_MAX = 10.0
POLL_SECONDS = 0.02


def is_postmaster(pid: int, cluster: Path) -> bool:
    """Whether this process runs the cluster in that directory, and is not a stranger with its old process id."""
    with suppress(psutil.Error):
        return pid > 0 and str(cluster) in psutil.Process(pid).cmdline()
    return False


def end_postmaster(pid: int) -> None:
    """Ends a postmaster: fast shutdown first, harder only where that does not end it; each is safe for the data."""
    harder = (
        (signal.SIGINT, STOP_SECONDS_MAX),
        (signal.SIGQUIT, KILL_SECONDS_MAX),
        (signal.SIGKILL, KILL_SECONDS_MAX),
    )
    for signal_number, seconds_max in harder:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            process.send_signal(signal_number)
            deadline = time.monotonic() + seconds_max
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                if time.monotonic() > deadline:
                    break
                time.sleep(POLL_SECONDS)
            else:
                return
