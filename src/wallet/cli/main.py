"""The commands that run a process (`up`, `api`, `relay`, `worker`), and the entry point of `wallet`."""

import asyncio
import errno
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from wallet import bootstrap
from wallet.api.edge.server import ServerEnded
from wallet.cli.app import Panel, app, load_commands
from wallet.cli.errands import EXIT_FAILED, EXIT_WRONG_CALL, give_up, log_warnings, print_warnings, warnings_about
from wallet.cli.options import between
from wallet.cli.processes.api_processes import PROCESSES_MAX, forgets_metrics_with_parent, run_api_processes
from wallet.cli.processes.children import CannotStart, report_starts_to_parent
from wallet.cli.running_up import DATA
from wallet.runtime.failpoints import InvalidFailpoints, configure_failpoints
from wallet.runtime.logs import logging_to
from wallet.runtime.settings import InvalidSettings, Settings, load_settings
from wallet.version import version

__all__ = ("app", "main")

Host = Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")]
Port = Annotated[
    int | None,
    typer.Option(
        help="Port to listen on, up to 65535; 0 takes a free one. The default is the setting PORT.",
        parser=between(0, 65535),
        metavar="PORT",
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        help=f"How many processes serve the port, up to {PROCESSES_MAX}; more than one needs Linux.",
        parser=between(1, PROCESSES_MAX),
        metavar="N",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Log to the file in LOG_DIR only.")]

GC_ALLOCATIONS, GC_YOUNG, GC_MIDDLE = 20_000, 50, 100
"""The defaults (700, 10, 10) use 5-20 % of the processor to search for cycles; a request creates none."""

Run = Callable[[asyncio.Event], Awaitable[None]]


def main() -> None:
    """Entry point of the `wallet` command."""
    if sys.flags.optimize:
        give_up(
            "Python runs with -O or PYTHONOPTIMIZE, which leaves out checks that protect the books. "
            "Unset PYTHONOPTIMIZE, or leave out -O, and start again."
        )
    app(prog_name="wallet")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"wallet {version()}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Handles the options of `wallet` itself. The help text is that of the application."""


@app.command(rich_help_panel=Panel.SERVICE)
def up(
    host: Host = "127.0.0.1",
    port: Port = None,
    workers: Workers = 1,
    data: Annotated[Path, typer.Option(metavar="DIR", help="Where the embedded PostgreSQL keeps its data.")] = DATA,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no line for each request on a terminal.")] = False,
) -> None:
    """Run everything on this machine: api, relay, worker, and a PostgreSQL where no database is named.

    Prints `ready` when all processes are ready. Exit code 0: stopped. 1: it can't run. 2: a wrong call or setting.
    3: the database can't be reached.
    """
    from wallet.cli.processes.up import run_up

    settings = _settings()
    port = _port(settings, port)
    print_warnings(warnings_about(settings, host=host))
    _serve(
        lambda stop: run_up(settings, host=host, port=port, api_workers=workers, data_dir=data, quiet=quiet, stop=stop)
    )


@app.command(rich_help_panel=Panel.SERVICE)
def api(host: Host = "127.0.0.1", port: Port = None, workers: Workers = 1, quiet: Quiet = False) -> None:
    """Run the HTTP api, as one process or as several behind one port."""
    settings = _settings_with_database()
    port = _port(settings, port)
    if workers > 1:
        _serve(lambda stop: run_api_processes(host=host, port=port, count=workers, quiet=quiet, stop=stop))
    else:
        with logging_to(settings, "api", on_terminal=not quiet):
            log_warnings(warnings_about(settings, host=host))
            _serve(lambda stop: bootstrap.run_api(settings, host=host, port=port, stop=stop))


@app.command(hidden=True, rich_help_panel=Panel.SERVICE)
def api_process(number: int, metrics: Path, host: Host, port: Port, quiet: Quiet = False) -> None:
    """One process of an api that has several; their parent starts it, and reserves the port."""
    settings = _settings_with_database()
    port = _port(settings, port)
    with logging_to(settings, "api", on_terminal=not quiet, process=number), forgets_metrics_with_parent(metrics):
        if number == 1:
            log_warnings(warnings_about(settings, host=host))
        _serve(lambda stop: bootstrap.run_api(settings, host=host, port=port, stop=stop, process_number=number))


@app.command(rich_help_panel=Panel.SERVICE)
def relay(quiet: Quiet = False) -> None:
    """Run the relay: seals the journal and publishes its events. A second one stands by."""
    settings = _settings_with_database()
    report_starts_to_parent()
    with logging_to(settings, "relay", on_terminal=not quiet):
        log_warnings(warnings_about(settings))
        _serve(lambda stop: bootstrap.run_relay(settings, stop))


@app.command(rich_help_panel=Panel.SERVICE)
def worker(quiet: Quiet = False) -> None:
    """Run the worker: analytics, fraud rules, notifications."""
    settings = _settings_with_database()
    report_starts_to_parent()
    with logging_to(settings, "worker", on_terminal=not quiet):
        log_warnings(warnings_about(settings))
        _serve(lambda stop: bootstrap.run_worker(settings, stop))


load_commands()


def _settings() -> Settings:
    try:
        settings = load_settings()
        configure_failpoints(settings.wallet_failpoints)
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(settings.log_dir, os.W_OK):
            raise PermissionError(errno.EACCES, "permission denied")
    except OSError as error:
        give_up(f"Wrong setting: LOG_DIR can't be written to: {error.strerror}.")
    except (InvalidSettings, InvalidFailpoints) as error:
        give_up(f"Wrong setting: {error}")
    return settings


def _settings_with_database() -> Settings:
    settings = _settings()
    if not settings.has_database:
        give_up(
            "No database is named: set DATABASE_URL or DB_HOST, or run `./wallet up`, which starts its own PostgreSQL."
        )
    return settings


def _port(settings: Settings, port: int | None) -> int:
    return settings.port if port is None else port


def _serve(run: Run) -> None:
    """Run until done, or until SIGTERM or Ctrl-C sets `stop`; a second Ctrl-C has no further effect."""

    async def until_stopped() -> None:
        _collect_rarely()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await run(stop)

    try:
        uvloop.run(until_stopped())
    except CannotStart as error:
        give_up(str(error), error.exit_code)
    except bootstrap.CANNOT_RUN as error:
        code = EXIT_FAILED if isinstance(error, ServerEnded) else EXIT_WRONG_CALL
        give_up(str(error) or (type(error).__doc__ or ""), code)


def _collect_rarely() -> None:
    """Run the garbage collector rarely: imported objects are never freed, and a request's objects are freed by
    reference count.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, GC_YOUNG, GC_MIDDLE)
