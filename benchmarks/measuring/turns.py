"""Runs the yardstick before and after a scenario, so that changes in the machine's speed affect both."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.figures import figure
from benchmarks.ground import Ground
from benchmarks.scenarios import Yardstick
from benchmarks.verdicts import Measured
from benchmarks.yardstick import run_yardstick

Tell = Callable[[str], None]


@contextmanager
def between(ground: Ground, yardstick: Yardstick, measured: Measured, tell: Tell) -> Iterator[None]:
    """Runs the yardstick before and after the block, and stores its figure."""
    runs = run_yardstick(ground, yardstick)
    tell(f"yardstick {yardstick.title} {figure(*runs).median:,.0f}/s")
    yield
    after = run_yardstick(ground, yardstick)
    tell(f"yardstick {yardstick.title} {figure(*after).median:,.0f}/s")
    measured.against[yardstick.title] = figure(*runs, *after)
