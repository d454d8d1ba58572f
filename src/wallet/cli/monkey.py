"""`wallet monkey`: the stress tool's options, its progress bar or plain lines, and its report."""

import asyncio
import random
import secrets
import signal
import sys
import time
from importlib.util import find_spec
from types import TracebackType
from typing import Annotated, Final, Self

import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wallet.cli.errands import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_UNREACHABLE,
    complain,
    give_up,
    print_json,
    print_what_the_terminal_can,
)
from wallet.cli.options import AsJson, between, duration
from wallet.cli.running_up import SeveralRun, find_running_up
from wallet.stress.client import Unreachable
from wallet.stress.report import BROKEN, KEPT, heading, report_lines, report_object, verdict, without_password
from wallet.stress.run import Findings, Options, Watcher, run_monkey

SEEDS = 2**32
DEFAULT_URL = "http://127.0.0.1:3000"
WHAT_TO_DO: Final = "Start it (here: ./wallet up), or name another with --url."
SECONDS_MIN: Final = 0.001
PLAIN_SECONDS: Final = 2.0
"""Without a bar, a line is printed at this interval, and one at the end."""


def monkey(
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The service to try: any with the wallet's routes. The default is a `wallet up` that runs here, "
            f"else {DEFAULT_URL}.",
        ),
    ] = None,
    requests: Annotated[int, typer.Option(help="How many requests to send.", parser=between(1), metavar="N")] = 1000,
    concurrency: Annotated[
        int, typer.Option(help="How many of them at once, up to 10,000.", parser=between(1, 10_000), metavar="N")
    ] = 100,
    wallets: Annotated[
        int, typer.Option(help="Over how many wallets, at least 2; few make them hot.", parser=between(2), metavar="N")
    ] = 20,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Sends the operations of an earlier run again.")] = None,
    patience: Annotated[
        float,
        typer.Option(help="How long to retry without progress.", parser=duration, metavar="SECONDS"),
    ] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Stress a wallet service with random money, then prove that none was lost.

    Exit code 0: every promise was kept. 1: something is off. 2: a wrong call. 3: the service can't be reached.
    """
    if find_spec("aiohttp") is None:
        give_up("the stress tool's HTTP client is not installed: pip install 'wallet-service[stress]'")
    # The HTTP client is loaded only where it is needed: the other commands start faster without it.
    from wallet.cli.monkey import run_on_screen
    from wallet.stress.run import Options

    url = url or _default_url()
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{url!r} must begin with http:// or https://", param_hint="--url")
    options = Options(
        url=url,
        request_count=requests,
        concurrency=concurrency,
        wallet_count=wallets,
        seed=random.SystemRandom().randrange(SEEDS) if seed is None else seed,
        run_id=secrets.token_hex(4),
        patience_seconds=patience,
    )
    sys.exit(run_on_screen(options, as_json=as_json))


def _default_url() -> str:
    try:
        up = find_running_up()
    except SeveralRun as error:
        give_up(f"{error}, or give --url.")
    return DEFAULT_URL if up is None else up.url


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
