"""Runs one experiment to its proof; the tests and `wallet chaos` both do it so."""

import asyncio
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fault.experiment import Experiment
from tests.fault.laboratory import Laboratory
from tests.fault.proof import Proof
from tests.fault.servers import Servers, laboratory_for


@dataclass(frozen=True, slots=True)
class Run:
    """An experiment that was run, with what became of it."""

    experiment: Experiment
    seed: int
    seconds: float
    notes: tuple[str, ...]
    proof: Proof | None
    failure: BaseException | None
    """Why it never came to its proof."""
    servers_report: str = ""
    """What its processes and its PostgreSQL said, where it is not clean."""

    @property
    def is_clean(self) -> bool:
        """Whether it came to its end, and every promise was kept."""
        return self.proof is not None and self.proof.is_clean

    def lines(self) -> Iterator[str]:
        """What was done and found, for a person."""
        yield from (f"· {note}" for note in self.notes)
        if self.proof is not None:
            yield self.proof.summary()
            yield from self.proof.lines()
        if self.failure is not None:
            yield f"✗ it never came to its proof: {_reason(self.failure)}"

    def headline(self) -> str:
        """The first fault, in one line: some reports of a test run show no more than that."""
        return next((line.strip() for line in self.lines() if line.startswith("✗")), "every promise was kept")

    def report(self) -> str:
        """Everything that is known of it, for whoever looks for the cause; what matters most comes first and last."""
        trace = [] if self.failure is None else traceback.format_exception(self.failure)
        return "\n".join([self.headline(), self.servers_report, "".join(trace), *self.lines()])


def run_experiment(experiment: Experiment, seed: int, servers: Servers, directory: Path, *, seconds: float) -> Run:
    """Set up, break, wait for rest, prove, clear up. What went wrong is in the result."""
    began = time.monotonic()
    with laboratory_for(experiment, seed, servers, directory, seconds=seconds) as lab:
        proof: Proof | None = None
        failure: BaseException | None = None
        try:
            proof = asyncio.run(_break_and_prove(experiment, lab))
        except Exception as error:  # noqa: BLE001 - what goes wrong is the run's result, and the next one has its turn.
            failure = error
        is_clean = proof is not None and proof.is_clean
        report = "" if is_clean else f"{lab.processes.report()}\n{lab.postgres.report()}"
    return Run(experiment, seed, time.monotonic() - began, tuple(lab.notes), proof, failure, report)


async def _break_and_prove(experiment: Experiment, lab: Laboratory) -> Proof:
    await experiment.run(lab)
    return await lab.rest_and_prove()


def _reason(failure: BaseException) -> str:
    """The first cause, in a line."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    [*_, place] = traceback.extract_tb(failure.__traceback__)
    return f"{type(failure).__name__}: {str(failure) or place.line}".splitlines()[0]
