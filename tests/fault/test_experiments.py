"""Runs each experiment once, with a seed of its own; `./wallet chaos` repeats them for a given time."""

from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from tests.fault.experiment import SECONDS_SHORT, Experiment
from tests.fault.registry import EXPERIMENTS
from tests.fault.running import run_experiment
from tests.fault.servers import Servers

MEASURES_TIME = {22}


def _parameter(experiment: Experiment) -> ParameterSet:
    marks = [pytest.mark.alone] if experiment.number in MEASURES_TIME else []
    return pytest.param(experiment, marks=marks, id=f"{experiment.number}-{experiment.name.replace(' ', '-')}")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("experiment", list(map(_parameter, EXPERIMENTS)))
def test_every_promise_is_kept(experiment: Experiment, seed: int, servers: Servers, tmp_path: Path) -> None:
    run = run_experiment(experiment, seed, servers, tmp_path, seconds=SECONDS_SHORT)
    if not run.is_clean:
        pytest.fail(run.report(), pytrace=False)
