"""`wallet verify` as its user sees it: bars and a table on a terminal, plain lines elsewhere, then the verdict."""

import asyncio
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import uvloop
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from wallet.cli.database import NoDatabase, find_database
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.settings import InvalidSettings, load_settings
from wallet.verification.checks import Check, Fault, Finding, Observer, Pass, counted
from wallet.verification.heads import ExportedHeads, HeadsUnreadable
from wallet.verification.snapshot import NotMigrated
from wallet.verification.verify import Proof, verify

EXIT_CLEAN: Final = 0
EXIT_BROKEN: Final = 1
EXIT_NOTHING_PROVED: Final = 2

KEPT: Final = "✓"
BROKEN: Final = "✗"
WARNING: Final = "!"
PLAIN_SECONDS: Final = 10.0
"""Where there is no bar, a line this often."""


def verify_on_screen(data_dir: Path, heads: Path | None) -> int:
    """Prove, show how far it is, and print what was found. Returns the exit code."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    try:
        dsn = find_database(load_settings(), data_dir)
        exported = None if heads is None else ExportedHeads.of(heads)
        with Bars(console) if console.is_terminal else Lines(console) as screen:
            proof = uvloop.run(verify(dsn, screen, exported))
    except (NoDatabase, InvalidSettings, HeadsUnreadable, NotMigrated) as reason:
        return _give_up(str(reason))
    except DATABASE_ERRORS as error:
        return _give_up(f"The database can't be read: {str(error) or type(error).__name__}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _give_up("ended; nothing was proved")
    screen.show(proof)
    _tell(console, proof, has_heads=heads is not None)
    return EXIT_CLEAN if proof.is_clean else EXIT_BROKEN


class Bars(Observer):
    """A bar for the reading under way; at the end a table."""

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
        """One bar is shown at a time; it only pulses while the server sorts."""
        self._unit, self._total = unit, total or None
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(title, total=None, count="")

    def advance(self, count: int) -> None:
        """Move the bar."""
        done = int(self._progress.tasks[0].completed) + count
        self._progress.update(self._task, total=self._total, completed=done, count=f"{done:,} {self._unit}")

    def end(self, done: Pass) -> None:
        """The next bar takes its place."""

    def show(self, proof: Proof) -> None:
        """The table of all checks; those that were proved by the same reading share its time."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("", "", "", "promise"):
            table.add_column(heading, overflow="fold")
        table.add_column("held against", justify="right", no_wrap=True)
        table.add_column("seconds", justify="right", no_wrap=True)
        for each in proof.passes:
            for number, finding in enumerate(each.findings):
                seconds = f"{each.seconds:,.1f}" if number == 0 else "″"
                check = finding.check
                count = counted(finding.looked_at, finding.noun)
                mark = Text(_mark(finding), style=_style(finding))
                table.add_row(mark, check.invariant, check.title, check.promise, count, seconds)
        self._console.print(table)


class Lines(Observer):
    """A line for each check when its reading ends, and now and then one to say how far it is."""

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
        """Remember what is read."""
        self._title, self._unit, self._total, self._done = title, unit, total, 0

    def advance(self, count: int) -> None:
        """A line, if the last one was long ago."""
        self._done += count
        if time.monotonic() - self._told_at > PLAIN_SECONDS:
            self._told_at = time.monotonic()
            of = f" of {self._total:,}" if self._total else ""
            self._console.print(f"  … {self._title}: {self._done:,}{of} {self._unit}")

    def end(self, done: Pass) -> None:
        """A line for each check."""
        for finding in done.findings:
            check = finding.check
            count = counted(finding.looked_at, finding.noun)
            self._console.print(
                f"{_mark(finding)} {check.invariant} {check.title:<15}  {count:>21}  {done.seconds:7.1f} s"
                f"  {check.promise}"
            )

    def show(self, proof: Proof) -> None:
        """Everything was shown as it came."""


def _tell(console: Console, proof: Proof, *, has_heads: bool) -> None:
    for finding in proof.findings:
        if finding.first is not None:
            _tell_fault(console, finding, finding.first)
    for finding in proof.findings:
        for warning in finding.warnings:
            console.print(f"{WARNING} {finding.check.invariant} {finding.check.title}: {warning}", style="yellow")
    if not has_heads:
        title = f"{Check.HEADS.invariant} {Check.HEADS.title}"
        console.print(f"{WARNING} {title}: none given (--heads), so a cut tail can't be seen", style="yellow")
    if [finding.check for finding in proof.findings if finding.fault_count] == [Check.PROJECTIONS]:
        console.print("The log itself is whole: `wallet rebuild` makes statistics and alerts anew from it.")
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
    events = next(finding.looked_at for finding in proof.findings if finding.check is Check.CONSERVATION)
    rate = f"{events / proof.seconds:,.0f} events/s" if proof.seconds else ""
    as_of = f"as of {proof.taken_at:%Y-%m-%d %H:%M:%S} UTC; {events:,} events in {proof.seconds:,.1f} s, {rate}"
    broken = [finding.check for finding in proof.findings if finding.fault_count]
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


def _give_up(message: str) -> int:
    print(f"wallet: {message}", file=sys.stderr)
    return EXIT_NOTHING_PROVED
