"""How long and how often each figure is measured: in a full run, or in a quick one during development."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Effort:
    """The durations and the numbers of runs."""

    name: str
    yardstick_seconds: int
    yardstick_runs: int
    """The number of runs before a scenario; the same number follows after it."""
    warm_up_seconds: int
    run_seconds: int
    runs: int
    pipeline_seconds: int
    backlog_runs: int
    """How often the relay and the worker each process a backlog of 100,000 events."""
    open_loop_seconds: int
    open_loop_runs: int
    grown_events: int
    history_seconds: int
    restarts: int
    idle_seconds: int


FULL: Final = Effort(
    name="full",
    yardstick_seconds=6,
    yardstick_runs=2,
    warm_up_seconds=3,
    run_seconds=8,
    runs=3,
    pipeline_seconds=8,
    backlog_runs=3,
    open_loop_seconds=20,
    open_loop_runs=3,
    grown_events=3_000_000,
    history_seconds=4,
    restarts=5,
    idle_seconds=30,
)
QUICK: Final = Effort(
    name="quick",
    yardstick_seconds=3,
    yardstick_runs=1,
    warm_up_seconds=2,
    run_seconds=4,
    runs=2,
    pipeline_seconds=3,
    backlog_runs=1,
    open_loop_seconds=12,
    open_loop_runs=1,
    grown_events=300_000,
    history_seconds=2,
    restarts=2,
    idle_seconds=10,
)
