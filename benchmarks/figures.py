"""Figures: what several runs gave, as a median and a spread."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity, measured once or more."""

    runs: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse a figure that was never measured."""
        assert self.runs, "a figure needs a run"

    @property
    def median(self) -> float:
        """The middle one: one run that a neighbour disturbed does not count."""
        return statistics.median(self.runs)

    @property
    def spread(self) -> float:
        """How far runs lie from the middle: half their range, as a part of the median."""
        return (max(self.runs) - min(self.runs)) / 2 / self.median if self.median else 0.0


def figure(*runs: float) -> Figure:
    """A figure of these runs."""
    return Figure(tuple(runs))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of the values do not exceed (nearest rank)."""
    assert values, "no percentile of nothing"
    rank = -(-len(values) * percent // 100)
    return sorted(values)[max(int(rank), 1) - 1]
