"""`wallet verify`: its options, and what each exit code means."""

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final, Self

import typer
import uvloop
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from wallet.cli.app import Panel, app
from wallet.cli.errands import EXIT_DONE, EXIT_FAILED, print_json, run_errand
from wallet.cli.options import AsJson
from wallet.cli.running_up import DATA, DataDirectory, find_database
from wallet.integrity.checks.heads import ExportedHeads
from wallet.integrity.findings import Check, Fault, Finding, Observer, Pass, Unobserved, counted
from wallet.integrity.verify import Proof
from wallet.integrity.verify import verify as verify_books
from wallet.runtime.settings import load_settings


@app.command(rich_help_panel=Panel.OPERATION)
def verify(
    heads: Annotated[
        Path | None, typer.Option(help="Exported journal heads, such as LOG_DIR/journal-heads.log or a copy kept away.")
    ] = None,
    as_json: AsJson = False,
    data: DataDirectory = DATA,
) -> None:
    """Prove the books: that no money was lost, and that no one changed what was written.

    Reads one moment of the database while it goes on working; nobody waits for it. Without --heads it can't see that
    the journal's tail was cut off; with them it still can't see a rewriting of the books and of the heads too.

    Exit code 0: every promise holds. 1: one is broken; the first row at fault is named. 2: a wrong call or setting.
    3: the database can't be reached.
    """
    sys.exit(verify_on_screen(data, heads, as_json=as_json))


KEPT: Final = "✓"
BROKEN: Final = "✗"
WARNING: Final = "!"
PLAIN_SECONDS: Final = 10.0
"""Without a bar, a line is printed at this interval."""


def verify_on_screen(data_dir: Path, heads: Path | None, *, as_json: bool = False) -> int:
    """Run the checks, show the progress, and print the results. Returns the exit code."""

    def work() -> int:
        dsn = find_database(load_settings(), data_dir)
        exported = None if heads is None else ExportedHeads.of(heads)
        if as_json:
            proof = uvloop.run(verify_books(dsn, Unobserved(), exported))
            print_json(_object(proof))
        else:
            console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
            with ProofBars(console) if console.is_terminal else ProofLines(console) as screen:
                proof = uvloop.run(verify_books(dsn, screen, exported))
            screen.show(proof)
            _tell(console, proof, has_heads=heads is not None)
        return EXIT_DONE if proof.is_clean else EXIT_FAILED

    return run_errand(work, interrupted="nothing was proved")


class ProofBars(Observer):
    """Shows a bar for the current pass, and a table at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("  {task.description:<16}"),
            BarColumn(),
            TextColumn("{task.fields[count]:>22}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("connecting", total=None, count="")
        self._unit = ""
        self._total: int | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._progress.stop()

    def begin(self, title: str, unit: str, total: int) -> None:
        """Show the bar of a new pass, one at a time; it only pulses while the server sorts."""
        self._unit, self._total = unit, total or None
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(title, total=None, count="")

    def advance(self, count: int) -> None:
        """Move the bar."""
        done = int(self._progress.tasks[0].completed) + count
        self._progress.update(self._task, total=self._total, completed=done, count=f"{done:,} {self._unit}")

    def end(self, done: Pass) -> None:
        """Do nothing: the bar of the next pass replaces this one."""

    def show(self, proof: Proof) -> None:
        """Print the table of all checks. Checks of one pass share its duration, which is shown at the first."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("", "", "", "promise"):
            table.add_column(heading, overflow="fold")
        table.add_column("compared with", justify="right", no_wrap=True)
        table.add_column("seconds", justify="right", no_wrap=True)
        shown = set[int]()
        for finding, reading in _in_order(proof):
            seconds = "″" if id(reading) in shown else f"{reading.seconds:,.1f}"
            shown.add(id(reading))
            check = finding.check
            count = counted(finding.checked_count, finding.noun)
            mark = Text(_mark(finding), style=_style(finding))
            table.add_row(mark, check.invariant, check.title, check.promise, count, seconds)
        self._console.print(table)


class ProofLines(Observer):
    """Prints lines at intervals while a pass runs, and a line for each check at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._title = self._unit = ""
        self._total = self._done = 0
        self._told_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        return None

    def begin(self, title: str, unit: str, total: int) -> None:
        """Store the title and the unit of the pass."""
        self._title, self._unit, self._total, self._done = title, unit, total, 0

    def advance(self, count: int) -> None:
        """Print a line if the last one was long ago."""
        self._done += count
        if time.monotonic() - self._told_at > PLAIN_SECONDS:
            self._told_at = time.monotonic()
            of = f" of {self._total:,}" if self._total else ""
            self._console.print(f"  … {self._title}: {self._done:,}{of} {self._unit}")

    def end(self, done: Pass) -> None:
        """Do nothing: the lines are printed together at the end, in order of the promises."""

    def show(self, proof: Proof) -> None:
        """Print a line for each check."""
        for finding, reading in _in_order(proof):
            check = finding.check
            count = counted(finding.checked_count, finding.noun)
            self._console.print(
                f"{_mark(finding)} {check.invariant} {check.title:<15}  {count:>21}  {reading.seconds:7.1f} s"
                f"  {check.promise}"
            )


def _in_order(proof: Proof) -> list[tuple[Finding, Pass]]:
    """Returns the findings with their passes, in order of the promises' numbers."""
    pairs = [(finding, reading) for reading in proof.passes for finding in reading.findings]
    return sorted(pairs, key=lambda pair: int(pair[0].check.invariant.removeprefix("I")))


def _object(proof: Proof) -> dict[str, Any]:
    return {
        "isClean": proof.is_clean,
        "takenAt": proof.taken_at.isoformat(),
        "seconds": round(proof.seconds, 3),
        "checks": [_check_object(finding, reading) for finding, reading in _in_order(proof)],
        "unproved": [check.title for check in proof.unproved],
    }


def _check_object(finding: Finding, reading: Pass) -> dict[str, Any]:
    fault = finding.first
    return {
        "invariant": finding.check.invariant,
        "title": finding.check.title,
        "promise": finding.check.promise,
        "checkedCount": finding.checked_count,
        "unit": finding.noun,
        "seconds": round(reading.seconds, 3),
        "faultCount": finding.fault_count,
        "firstFault": None
        if fault is None
        else {"table": fault.table, "row": fault.row, "expected": fault.expected, "found": fault.found},
        "warnings": finding.warnings,
    }


def _tell(console: Console, proof: Proof, *, has_heads: bool) -> None:
    findings = [finding for finding, _ in _in_order(proof)]
    for finding in findings:
        if finding.first is not None:
            _tell_fault(console, finding, finding.first)
    for finding in findings:
        for warning in finding.warnings:
            console.print(f"{WARNING} {finding.check.invariant} {finding.check.title}: {warning}", style="yellow")
    if proof.unproved:
        titles = ", ".join(f"{check.invariant} {check.title}" for check in proof.unproved)
        console.print(f"{WARNING} not proved, as reading ended before: {titles}", style="yellow")
        console.print("Restore a backup, or fail over to a standby; then run this again.")
    if not has_heads:
        title = f"{Check.HEADS.invariant} {Check.HEADS.title}"
        console.print(f"{WARNING} {title}: none given (--heads), so a cut tail can't be seen", style="yellow")
    if [finding.check for finding in proof.findings if finding.fault_count] == [Check.PROJECTIONS]:
        console.print("The log itself is whole: `wallet rebuild` recreates statistics and alerts from it.")
    if any(finding.fault_count and finding.check is Check.EFFECTS for finding in proof.findings):
        console.print(
            "`wallet rebuild` gives the lost events their effects from the log; then find out how they were lost."
        )
    console.print()
    console.print(_verdict(proof), style="bold green" if proof.is_clean else "bold red")


def _tell_fault(console: Console, finding: Finding, fault: Fault) -> None:
    count = counted(finding.fault_count, "fault") + (", the first:" if finding.fault_count > 1 else ":")
    console.print(f"{BROKEN} {finding.check.invariant} {finding.check.title}: {count}", style="bold red")
    console.print(f"    where     {fault.table}: {fault.row}")
    console.print(f"    expected  {fault.expected}")
    console.print(f"    found     {fault.found}")


def _verdict(proof: Proof) -> str:
    events = sum(finding.checked_count for finding in proof.findings if finding.check is Check.CONSERVATION)
    rate = f"{events / proof.seconds:,.0f} events/s" if proof.seconds else ""
    as_of = f"as of {proof.taken_at:%Y-%m-%d %H:%M:%S} UTC; {events:,} events in {proof.seconds:,.1f} s, {rate}"
    broken = [finding.check for finding, _ in _in_order(proof) if finding.fault_count]
    if not broken:
        return f"clean: every promise holds, {as_of}"
    names = ", ".join(f"{check.invariant} {check.title}" for check in broken)
    return f"broken: {names}; {as_of}"


def _mark(finding: Finding) -> str:
    if finding.fault_count:
        return BROKEN
    return WARNING if finding.warnings else KEPT


def _style(finding: Finding) -> str:
    return {KEPT: "green", WARNING: "yellow", BROKEN: "bold red"}[_mark(finding)]
