"""Runs one experiment and checks the promises, for the tests and for `wallet chaos`."""

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
    """An experiment that was run, with its results."""

    experiment: Experiment
    seed: int
    seconds: float
    notes: tuple[str, ...]
    proof: Proof | None
    failure: BaseException | None
    """The error because of which the promises were not checked."""
    servers_report: str = ""
    """The output of its processes and its PostgreSQL, if it is not clean."""

    @property
    def is_clean(self) -> bool:
        """Returns whether it was completed and every promise was kept."""
        return self.proof is not None and self.proof.is_clean

    def lines(self) -> Iterator[str]:
        """Yields what was done and found, as text for a person."""
        yield from (f"· {note}" for note in self.notes)
        if self.proof is not None:
            yield self.proof.summary()
            yield from self.proof.lines()
        if self.failure is not None:
            yield f"✗ it never came to its proof: {_reason(self.failure)}"

    def headline(self) -> str:
        """Returns the first fault in one line, because some test reports show only one line."""
        return next((line.strip() for line in self.lines() if line.startswith("✗")), "every promise was kept")

    def report(self) -> str:
        """Returns everything that helps to find the cause; the most important parts are first and last."""
        trace = [] if self.failure is None else traceback.format_exception(self.failure)
        return "\n".join([self.headline(), self.servers_report, "".join(trace), *self.lines()])


def run_experiment(experiment: Experiment, seed: int, servers: Servers, directory: Path, *, seconds: float) -> Run:
    """Set up, break, wait for rest, check, clean up. An error is stored in the result."""
    began = time.monotonic()
    with laboratory_for(experiment, seed, servers, directory, seconds=seconds) as lab:
        proof: Proof | None = None
        failure: BaseException | None = None
        try:
            proof = asyncio.run(_break_and_prove(experiment, lab))
        except Exception as error:  # noqa: BLE001 - an error is the result of this run, and the next run follows.
            failure = error
        is_clean = proof is not None and proof.is_clean
        report = "" if is_clean else f"{lab.processes.report()}\n{lab.postgres.report()}"
    return Run(experiment, seed, time.monotonic() - began, tuple(lab.notes), proof, failure, report)


async def _break_and_prove(experiment: Experiment, lab: Laboratory) -> Proof:
    await experiment.run(lab)
    return await lab.rest_and_prove()


def _reason(failure: BaseException) -> str:
    """Returns the first cause, in one line."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    [*_, place] = traceback.extract_tb(failure.__traceback__)
    return f"{type(failure).__name__}: {str(failure) or place.line}".splitlines()[0]
