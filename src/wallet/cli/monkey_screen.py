"""The stress tool as its user sees it: a progress bar on a terminal, plain lines elsewhere, then the report."""

import asyncio
import signal
import time
from types import TracebackType
from typing import Final, Self

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wallet.cli.errands import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_UNREACHABLE,
    complain,
    print_json,
    print_what_the_terminal_can,
)
from wallet.stress.client import Unreachable
from wallet.stress.report import BROKEN, KEPT, heading, report_lines, report_object, verdict, without_password
from wallet.stress.run import Findings, Options, Watcher, run_monkey

WHAT_TO_DO: Final = "Start it (here: ./wallet up), or name another with --url."
SECONDS_MIN: Final = 0.001
PLAIN_SECONDS: Final = 2.0
"""Without a bar, a line is printed at this interval, and one at the end."""


def run_on_screen(options: Options, *, as_json: bool = False) -> int:
    """Run, show the progress, and print the report. Returns the exit code."""

    print_what_the_terminal_can()
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=as_json)
    try:
        with RunBars(console, options) if console.is_terminal else RunLines(console, options) as watcher:
            findings = uvloop.run(_until_checked(options, watcher))
    except Unreachable as reason:
        return complain(f"{without_password(options.url)} can't be reached: {reason}. {WHAT_TO_DO}", EXIT_UNREACHABLE)
    except asyncio.CancelledError:
        return complain("interrupted; nothing was checked", EXIT_INTERRUPTED)
    if as_json:
        print_json(report_object(options, findings))
    for line in report_lines(options, findings):
        console.print(line, style=_style_of(line, findings))
    return EXIT_DONE if findings.is_clean else EXIT_FAILED


async def _until_checked(options: Options, watcher: Watcher) -> Findings:
    """Run until checked. The first Ctrl-C ends the sending, and what was sent is still checked; the second ends
    everything.
    """
    stop = asyncio.Event()
    running = asyncio.current_task()
    assert running is not None

    def interrupt() -> None:
        if stop.is_set():
            running.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    return await run_monkey(options, watcher, stop)


class RunBars:
    """Shows one bar for the requests, then one for the wallets whose totals the worker has right."""

    def __init__(self, console: Console, options: Options) -> None:
        self._options = options
        self._began_at_seconds = time.monotonic()
        self._progress = Progress(
            TextColumn("  {task.description:<16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rate]}"),
            console=console,
            transient=True,
        )
        self._sending = self._progress.add_task("sending", total=options.request_count, rate="")
        self._agreeing = self._progress.add_task(
            "worker's totals", total=options.wallet_count, start=False, visible=False, rate=""
        )

    def reached(self) -> None:
        """Print what begins."""
        self._began_at_seconds = time.monotonic()
        self._progress.console.print(heading(self._options))
        self._progress.reset(self._sending)
        self._progress.start()

    def sent(self, count: int) -> None:
        """Move the first bar."""
        seconds = max(time.monotonic() - self._began_at_seconds, SECONDS_MIN)
        self._progress.update(self._sending, completed=count, rate=f"{count / seconds:,.0f} requests/s")

    def agreed(self, count: int) -> None:
        """Move the second bar."""
        self._progress.start_task(self._agreeing)
        self._progress.update(self._agreeing, completed=count, visible=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()


class RunLines:
    """Prints a line at intervals if there is no terminal."""

    def __init__(self, console: Console, options: Options) -> None:
        self._console = console
        self._options = options
        self._said_at_seconds = time.monotonic()

    def reached(self) -> None:
        """Print what begins."""
        self._say(heading(self._options))

    def sent(self, count: int) -> None:
        """Print how many requests are done."""
        self._say_now_and_then(count, self._options.request_count, f"sent {count:,} of")

    def agreed(self, count: int) -> None:
        """Print for how many wallets the worker's totals are right."""
        self._say_now_and_then(count, self._options.wallet_count, f"the worker's totals are right for {count:,} of")

    def _say_now_and_then(self, count: int, total: int, words: str) -> None:
        if count == total or time.monotonic() - self._said_at_seconds >= PLAIN_SECONDS:
            self._say(f"{words} {total:,}")

    def _say(self, line: str) -> None:
        self._said_at_seconds = time.monotonic()
        self._console.print(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


def _style_of(line: str, findings: Findings) -> str:
    if line.lstrip().startswith(KEPT):
        return "green"
    if line.lstrip().startswith(BROKEN):
        return "red"
    if line == verdict(findings):
        return "bold green" if findings.is_clean else "bold red"
    return ""
