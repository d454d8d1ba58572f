"""Measures the memory of a process while it works, to check that it stays constant."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import psutil

from benchmarks.verdicts import InvalidRun
from tests.support.processes import WalletProcess
from tests.support.sessions import family_of

SAMPLE_SECONDS: Final = 0.2
MEGABYTE: Final = 1024 * 1024


def sample_memory(process: WalletProcess, until: Callable[[], bool], *, seconds_max: float = 600) -> list[float]:
    """Samples the memory of a process and its children, five times per second until the condition is met.

    Returns the samples in megabytes. Raises InvalidRun if the process ends before, or at the limit.
    """
    samples: list[float] = []
    deadline = time.monotonic() + seconds_max
    while not until():
        if time.monotonic() > deadline or process.exit_code is not None:
            raise InvalidRun(f"{process.name} did not finish its work: {process.output()}{process.logs()[-2_000:]}")
        samples.append(resident_megabytes(process.pid))
        time.sleep(SAMPLE_SECONDS)
    return samples


def resident_megabytes(pid: int) -> float:
    """Returns the resident memory of a process and its children."""
    total = 0
    for member in family_of(pid):
        with suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return total / MEGABYTE


def earlier_and_late(samples: list[float]) -> tuple[float, float]:
    """Returns the maximum of the second quarter of the samples, and that of the last quarter."""
    quarter = max(len(samples) // 4, 1)
    return max(samples[quarter : 2 * quarter] or samples), max(samples[-quarter:])
