"""The figures of a scenario, and their comparison with its goals."""

from dataclasses import dataclass, field
from typing import Any

from benchmarks.figures import Figure
from benchmarks.scenarios import Criterion, Scenario


class InvalidRun(Exception):
    """A run is invalid; the message contains the reason."""


@dataclass(slots=True)
class Measured:
    """The figures of a scenario. An entry in `faults` invalidates them: a refused request, or wrong books."""

    figures: dict[str, Figure] = field(default_factory=dict)
    against: dict[str, Figure] = field(default_factory=dict)
    with_pipeline: Figure | None = None
    drain_seconds: float | None = None
    faults: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """One criterion with its figure, and with the figure for comparison and the ratio, if it has them."""

    criterion: Criterion
    figure: Figure | None
    against: Figure | None
    ratio: float | None
    is_met: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A scenario with its verdict."""

    scenario: Scenario
    measured: Measured
    lines: tuple[Line, ...]
    seconds: float

    @property
    def is_met(self) -> bool:
        """Returns whether every criterion is met and there is no fault."""
        return not self.measured.faults and all(line.is_met for line in self.lines)


def judge(scenario: Scenario, measured: Measured, seconds: float) -> Row:
    """Returns a scenario's row of the report: its figures, compared with its criteria."""
    return Row(scenario, measured, tuple(_line(criterion, measured) for criterion in scenario.criteria), seconds)


def _line(criterion: Criterion, measured: Measured) -> Line:
    figure = measured.figures.get(criterion.figure)
    against = measured.against.get(criterion.against or criterion.shown_beside or "")
    ratio = figure.median / against.median if figure and against and against.median else None
    value = figure.median if figure else None
    judged = ratio if criterion.against else value
    is_met = judged is not None and criterion.bound.holds(judged, criterion.limit)
    return Line(criterion, figure, against, ratio, is_met)
