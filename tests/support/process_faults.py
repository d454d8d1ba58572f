"""Suspends processes for a while, as a debugger or an overloaded machine does."""

import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psutil

from tests.support.processes import WalletProcess
from tests.support.sessions import family_of
from tests.support.waiting import eventually


@asynccontextmanager
async def suspend(process: WalletProcess, draw: random.Random | None = None) -> AsyncIterator[psutil.Process]:
    """Sends SIGSTOP, and SIGCONT at the end in every case; a process that was killed meanwhile is skipped.

    With a `draw`, one process of the family is picked: a worker of `wallet api --workers`, or a part of `wallet up`.
    """
    # Sorted by start time, so that a seed picks the same process in each run.
    running = [member for member in family_of(process.pid) if member.status() != psutil.STATUS_ZOMBIE]
    family = sorted(running, key=lambda member: (member.create_time(), member.pid))
    stopped = draw.choice(family) if draw is not None else psutil.Process(process.pid)
    stopped.send_signal(signal.SIGSTOP)
    try:
        # The signal is sent at once, but each of the process's threads stops when it is next scheduled.
        await eventually(lambda: stopped.status() == psutil.STATUS_STOPPED)
        yield stopped
    finally:
        with suppress(psutil.NoSuchProcess):
            stopped.send_signal(signal.SIGCONT)
