"""`./wallet chaos`: runs the experiments in turn for a given time; prints a line for each, and details of failures."""

import itertools
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.fault.experiment import SECONDS_SHORT, Experiment
from tests.fault.registry import EXPERIMENTS
from tests.fault.running import Run, run_experiment
from tests.fault.servers import Servers
from tests.support.postgres import PostgresServer
from tests.support.rabbitmq import RabbitMQServer, find_scripts
from tests.support.reaper import Reaper
from wallet.stress.findings import count_of

EXIT_CLEAN: Final = 0
EXIT_BROKEN: Final = 1
EXIT_INTERRUPTED: Final = 130
SECONDS_A_MINUTE: Final = 60.0
NAME_WIDTH: Final = max(len(experiment.name) for experiment in EXPERIMENTS)


class UnknownExperiment(Exception):
    """No experiment has this number; the message lists them."""


def run(numbers: Sequence[int], *, minutes: float, seed: int, logs: Path, as_json: bool) -> int:
    """Run the experiments with these numbers, or all, repeatedly. Returns the exit code.

    With `as_json`, stdout has only one JSON object about all runs. Raises UnknownExperiment.
    """
    experiments = _chosen(numbers)
    # SIGTERM would end Python at once; as a KeyboardInterrupt it allows an orderly end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, stderr=as_json)
    console.print(_heading(experiments, minutes, seed))
    runs: list[Run] = []
    exit_code = EXIT_CLEAN
    try:
        with _own_servers() as servers:
            for each in _in_turn(experiments, servers, seconds=minutes * SECONDS_A_MINUTE, seed=seed):
                runs.append(each)
                _tell(console, each, logs, minutes=minutes if len(experiments) == 1 else 0)
    except KeyboardInterrupt:
        console.print("interrupted; all processes and servers that the run started have ended")
        exit_code = EXIT_INTERRUPTED
    is_clean = all(each.is_clean for each in runs)
    if as_json:
        report = {"isClean": is_clean, "seed": seed, "runs": [_object(each) for each in runs]}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    if exit_code != EXIT_INTERRUPTED or not is_clean:
        console.print(_verdict(runs), style="bold green" if is_clean else "bold red")
    return exit_code if is_clean else EXIT_BROKEN


def _chosen(numbers: Sequence[int]) -> list[Experiment]:
    known = {experiment.number: experiment for experiment in EXPERIMENTS}
    unknown = [number for number in numbers if number not in known]
    if unknown:
        listed = "\n".join(f"  {number:>2}  {experiment.name}" for number, experiment in sorted(known.items()))
        raise UnknownExperiment(f"no experiment has the number {unknown[0]}; there are\n{listed}")
    return [known[number] for number in numbers] or list(EXPERIMENTS)


def _in_turn(experiments: Sequence[Experiment], servers: Servers, *, seconds: float, seed: int) -> Iterator[Run]:
    """Run every experiment at least once, and continue until the time is over."""
    ends_at = time.monotonic() + seconds
    for round_number in itertools.count():
        for experiment in experiments:
            left = ends_at - time.monotonic()
            if round_number and left <= 0:
                return
            alone = len(experiments) == 1
            with tempfile.TemporaryDirectory(prefix="wallet-chaos-") as directory:
                Path(directory).chmod(0o711)
                yield run_experiment(
                    experiment,
                    seed + round_number,
                    servers,
                    Path(directory),
                    seconds=max(left, SECONDS_SHORT) if alone else SECONDS_SHORT,
                )


@contextmanager
def _own_servers() -> Iterator[Servers]:
    """Yields servers for this run only, each of which is started when the first experiment needs it."""
    with ExitStack() as stack:
        reaper = stack.enter_context(Reaper())

        def broker() -> RabbitMQServer:
            scripts = find_scripts()
            assert scripts is not None, "RabbitMQ is not installed"
            return stack.enter_context(RabbitMQServer(reaper, scripts))

        yield Servers(
            reaper=reaper,
            postgres=cache(lambda: stack.enter_context(PostgresServer(reaper))),
            broker=cache(broker),
            breakable_broker=cache(broker),
        )


def _heading(experiments: Sequence[Experiment], minutes: float, seed: int) -> str:
    what = f"{len(experiments)} experiments in turn" if len(experiments) > 1 else f"“{experiments[0].name}”"
    how_long = f"for {minutes:g} minutes" if minutes else "once"
    return f"chaos: {what}, {how_long}, seed {seed}; on private servers, fsync on"


def _tell(console: Console, run: Run, logs: Path, *, minutes: float) -> None:
    mark, style = ("✓", "green") if run.is_clean else ("✗", "bold red")
    summary = "failed" if run.proof is None else run.proof.summary()
    number, name = run.experiment.number, run.experiment.name
    console.print(
        f"{mark} {number:>2}  {name:<{NAME_WIDTH}}  seed {run.seed:<10}  {run.seconds:6.1f} s  {summary}", style=style
    )
    if run.is_clean:
        for note in run.notes:
            console.print(f"      · {note}", style="dim")
    else:
        for line in run.lines():
            console.print(f"      {line}")
        kept = logs / f"experiment-{number}-seed-{run.seed}.log"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(run.report())
        console.print(f"      what its processes said: {kept}")
        console.print(f"      repeat it: ./wallet chaos --minutes {minutes:g} --seed {run.seed} --only {number}")
    sys.stdout.flush()


def _object(run: Run) -> dict[str, object]:
    return {
        "experiment": run.experiment.number,
        "name": run.experiment.name,
        "seed": run.seed,
        "isClean": run.is_clean,
        "seconds": round(run.seconds, 3),
        "requestCount": 0 if run.proof is None else run.proof.request_count,
        "lines": list(run.lines()),
    }


def _verdict(runs: Sequence[Run]) -> str:
    requests = sum(run.proof.request_count for run in runs if run.proof is not None)
    broken = [run for run in runs if not run.is_clean]
    kinds = len({run.experiment.number for run in runs})
    counts = f"{count_of(len(runs), 'run')} of {count_of(kinds, 'experiment')}, {count_of(requests, 'request')}"
    if broken:
        which = ", ".join(f"{run.experiment.number} (seed {run.seed})" for run in broken)
        return f"broken: {which}; {counts}"
    return f"clean: every promise was kept; {counts}"
