"""`./wallet bench`: runs the scenarios one after another, then reports whether each of them reached its goals."""

import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import asyncpg
from rich.console import Console

from benchmarks.effort import FULL, QUICK, Effort
from benchmarks.estimates import about_seconds, spoken
from benchmarks.ground import Ground
from benchmarks.machine import describe_machine, describe_servers
from benchmarks.measuring import backlog, end_to_end, growth, http, idle
from benchmarks.measuring.turns import Tell
from benchmarks.report import document_of, print_report, write_document
from benchmarks.scenarios import Scenario, UnknownScenario, chosen
from benchmarks.verdicts import InvalidRun, Measured, Row, judge

__all__ = ["UnknownScenario", "run"]

EXIT_MET: Final = 0
EXIT_SHORT: Final = 1
EXIT_INTERRUPTED: Final = 130

Measure = Callable[[Ground, Scenario, Measured, Tell], None]

MEASURES: Final[Mapping[str, Measure]] = {
    "relay": backlog.measure_relay,
    "worker": backlog.measure_worker,
    "end-to-end": end_to_end.measure,
    "growth": growth.measure,
    "idle": idle.measure,
}
"""How each scenario is measured that does not send a load over HTTP with wrk; `http.measure` measures the others."""

# Errors that end one scenario, because it failed or could not be measured; the other scenarios still run.
FAILURES: Final = (
    InvalidRun,
    AssertionError,
    ExceptionGroup,
    OSError,
    RuntimeError,
    subprocess.SubprocessError,
    asyncpg.PostgresError,
)


def run(names: Sequence[str], *, is_quick: bool, figures: Path, as_json: bool) -> int:
    """Runs the scenarios with these names, or all without names; prints and writes the result. Returns the exit code.

    With `as_json`, stdout contains only the figures. Raises UnknownScenario.
    """
    scenarios = chosen(names)
    # By default SIGTERM ends Python at once; as a KeyboardInterrupt it lets all processes and servers stop in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # An encoding without ✓ must not fail the table.
    console = Console(highlight=False, emoji=False, soft_wrap=True, stderr=as_json)
    try:
        exit_code = _run(scenarios, QUICK if is_quick else FULL, figures, console)
        if as_json:
            sys.stdout.write(figures.read_text(encoding="utf-8"))
        return exit_code
    except KeyboardInterrupt:
        console.print("interrupted; all processes and servers that the benchmark started have ended")
        return EXIT_INTERRUPTED


def _run(scenarios: Sequence[Scenario], effort: Effort, figures: Path, console: Console) -> int:
    began = time.monotonic()
    machine = describe_machine()
    seconds = sum(about_seconds(scenario, effort) for scenario in scenarios)
    console.print(f"{machine['cpu']}, {machine['cores']} cores, which should be otherwise idle; {spoken(seconds)}")
    with Ground(effort) as ground:
        console.print("starting PostgreSQL and RabbitMQ, fsync on …")
        servers = describe_servers(ground)
        rows = [
            _measure(ground, scenario, f"[{number}/{len(scenarios)}]", console)
            for number, scenario in enumerate(scenarios, start=1)
        ]
    print_report(console, rows)
    write_document(figures, document_of(rows, effort, machine, servers))
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    console.print(f"{minutes} min {seconds} s; the figures of every run are in {figures}")
    return EXIT_MET if all(row.is_met for row in rows) else EXIT_SHORT


def _measure(ground: Ground, scenario: Scenario, place: str, console: Console) -> Row:
    began, measured = time.monotonic(), Measured()

    def tell(line: str) -> None:
        console.print(f"  {time.strftime('%H:%M:%S')}  {line}", markup=False)

    about = spoken(about_seconds(scenario, ground.effort))
    console.print(f"{place} {scenario.name}: {scenario.title} ({about})", style="bold", markup=False)
    try:
        MEASURES.get(scenario.name, http.measure)(ground, scenario, measured, tell)
    except FAILURES as error:
        measured.faults.append(str(error) or type(error).__name__)
        tell(f"failed: {measured.faults[-1]}")
    return judge(scenario, measured, time.monotonic() - began)
