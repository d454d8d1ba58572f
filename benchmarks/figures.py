"""Figures: the results of several runs with their median and spread."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity, measured in one or more runs."""

    runs: tuple[float, ...]

    def __post_init__(self) -> None:
        """Asserts that there is at least one run."""
        assert self.runs, "a figure needs at least one run"

    @property
    def median(self) -> float:
        """Returns the median, so that one run disturbed by other load on the machine has little effect."""
        return statistics.median(self.runs)

    @property
    def spread(self) -> float:
        """Returns half the range of the runs, as a part of the median."""
        return (max(self.runs) - min(self.runs)) / 2 / self.median if self.median else 0.0


def figure(*runs: float) -> Figure:
    """Returns a figure of these runs."""
    return Figure(tuple(runs))


def percentile(values: Sequence[float], percent: float) -> float:
    """Returns the smallest value that at least `percent` percent of the values do not exceed (nearest rank)."""
    assert values, "a percentile needs at least one value"
    rank = -(-len(values) * percent // 100)
    return sorted(values)[max(int(rank), 1) - 1]
