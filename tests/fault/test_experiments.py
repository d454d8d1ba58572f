"""Runs each experiment once, with a seed of its own; `./wallet chaos` repeats them for a given time."""

from pathlib import Path

import pytest

from tests.fault.experiment import SECONDS_SHORT, Experiment
from tests.fault.registry import EXPERIMENTS
from tests.fault.running import run_experiment
from tests.fault.servers import Servers


@pytest.mark.timeout(240)
@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda each: f"{each.number}-{each.name.replace(' ', '-')}")
def test_every_promise_is_kept(experiment: Experiment, seed: int, servers: Servers, tmp_path: Path) -> None:
    run = run_experiment(experiment, seed, servers, tmp_path, seconds=SECONDS_SHORT)
    if not run.is_clean:
        pytest.fail(run.report(), pytrace=False)
