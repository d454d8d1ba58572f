"""Estimates of how long a scenario takes, including starts and verification, as observed on two cores."""

from typing import Final

from benchmarks.effort import Effort
from benchmarks.scenarios import Scenario

OVERHEAD_SECONDS: Final = 12
"""For copying databases, starting processes and verifying the books."""
DRAIN_FACTOR: Final = 2
RELAY_RUN_SECONDS: Final = 15
WORKER_RUN_SECONDS: Final = 22
LOADED_AND_PROVED_PER_SECOND: Final = 15_000


def about_seconds(scenario: Scenario, effort: Effort) -> int:
    """Returns the estimated seconds from the beginning of a scenario to its verdict."""
    yardsticks = 2 * (1 + effort.yardstick_seconds * effort.yardstick_runs)
    match scenario.name:
        case "relay":
            return yardsticks + effort.backlog_runs * RELAY_RUN_SECONDS
        case "worker":
            return yardsticks + effort.backlog_runs * WORKER_RUN_SECONDS
        case "end-to-end":
            return OVERHEAD_SECONDS + effort.open_loop_runs * (effort.open_loop_seconds + 1)
        case "growth":
            once = 2 * (effort.history_seconds + effort.warm_up_seconds + effort.run_seconds + 2)
            return effort.grown_events // LOADED_AND_PROVED_PER_SECOND + effort.runs * once + OVERHEAD_SECONDS
        case "idle":
            return OVERHEAD_SECONDS + effort.idle_seconds
        case _:
            return yardsticks + OVERHEAD_SECONDS + _pressed_seconds(scenario, effort)


def _pressed_seconds(scenario: Scenario, effort: Effort) -> int:
    pressures = 1 if scenario.beside is None else 2
    alone = effort.warm_up_seconds + effort.runs * effort.run_seconds * pressures
    return alone + DRAIN_FACTOR * effort.pipeline_seconds


def spoken(seconds: int) -> str:
    """Returns a rounded duration as text."""
    return f"about {round(seconds, -1)} s" if seconds < 120 else f"about {round(seconds / 60)} min"
