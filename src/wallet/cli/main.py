"""The commands of `./wallet`: each reads the settings once and runs one process or one errand."""

import asyncio
import errno
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, NoReturn

import structlog
import typer
import uvloop

from wallet import bootstrap
from wallet.cli.api_processes import PROCESSES_MAX, forgets_metrics_with_parent, run_api_processes
from wallet.cli.bench import bench
from wallet.cli.chaos import chaos
from wallet.cli.children import CannotStart
from wallet.cli.contracts import contracts, document_text
from wallet.cli.dlq import dlq
from wallet.cli.monkey import monkey
from wallet.cli.postgres import postgres
from wallet.cli.prune import prune
from wallet.cli.rebuild import rebuild
from wallet.cli.verify import verify
from wallet.failpoints import InvalidFailpoints, configure_failpoints
from wallet.observability import logging_to
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.postgres.migrations import MigrationError, migrate
from wallet.settings import InvalidSettings, Settings, load_settings

app = typer.Typer(
    help="An event-driven wallet service: balances that are never wrong, and a log that proves it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; the default is the setting PORT.", min=0, max=65535)]
Workers = Annotated[
    int, typer.Option(help="How many processes serve the port; more than one needs Linux.", min=1, max=PROCESSES_MAX)
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Log to the file in LOG_DIR only.")]

GC_ALLOCATIONS, GC_YOUNG, GC_MIDDLE = 20_000, 50, 100
"""The defaults (700, 10, 10) look for cycles, of which a request makes none, with 5-20 % of the processor."""

Run = Callable[[asyncio.Event], Awaitable[None]]


def main() -> None:
    """Entry point of the `wallet` command."""
    app()


@app.command()
def up(
    host: Host = "127.0.0.1",
    port: Port = None,
    workers: Workers = 1,
    data: Annotated[Path, typer.Option(help="Where the embedded PostgreSQL keeps its data.")] = Path("data"),
) -> None:
    """Run everything on this machine: api, relay, worker, and a PostgreSQL where no database is named."""
    from wallet.cli.up import run_up

    settings = _settings()
    port = _port(settings, port)
    _serve(lambda stop: run_up(settings, host=host, port=port, api_workers=workers, data_dir=data, stop=stop))


@app.command()
def api(host: Host = "127.0.0.1", port: Port = None, workers: Workers = 1, quiet: Quiet = False) -> None:
    """Run the HTTP api, as one process or as several behind one port."""
    settings = _settings_with_database()
    port = _port(settings, port)
    if workers > 1:
        _serve(lambda stop: run_api_processes(host=host, port=port, count=workers, quiet=quiet, stop=stop))
    else:
        with logging_to(settings, "api", on_terminal=not quiet):
            _serve(lambda stop: bootstrap.run_api(settings, host=host, port=port, stop=stop))


@app.command(hidden=True)
def api_process(number: int, metrics: Path, host: Host, port: Port, quiet: Quiet = False) -> None:
    """One process of an api that has several; their parent starts it, and holds the port."""
    settings = _settings_with_database()
    port = _port(settings, port)
    with logging_to(settings, "api", on_terminal=not quiet), forgets_metrics_with_parent(metrics):
        structlog.contextvars.bind_contextvars(process=number)
        _serve(lambda stop: bootstrap.run_api(settings, host=host, port=port, stop=stop, process_number=number))


@app.command()
def relay(quiet: Quiet = False) -> None:
    """Run the relay: seals the journal and publishes its events. A second one stands by."""
    settings = _settings_with_database()
    with logging_to(settings, "relay", on_terminal=not quiet):
        _serve(lambda stop: bootstrap.run_relay(settings, stop))


@app.command()
def worker(quiet: Quiet = False) -> None:
    """Run the worker: analytics, fraud rules, notifications."""
    settings = _settings_with_database()
    with logging_to(settings, "worker", on_terminal=not quiet):
        _serve(lambda stop: bootstrap.run_worker(settings, stop))


@app.command(name="migrate")
def migrate_command() -> None:
    """Bring the database's tables to this version. Safe to run again, and by several at once."""
    settings = _settings_with_database()
    try:
        applied = asyncio.run(migrate(settings.dsn, tell=typer.echo))
    except MigrationError as error:
        _give_up(str(error))
    except DATABASE_ERRORS as error:
        _give_up(f"The database can't be reached: {str(error) or type(error).__name__}")
    for name in applied:
        typer.echo(f"applied {name}")
    if not applied:
        typer.echo("nothing to apply: the database is at this version")


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the HTTP api."""
    # As bytes, so that the encoding of the terminal does not change them.
    typer.echo(document_text(bootstrap.openapi_document()).encode(), nl=False)


app.command()(contracts)
app.command()(monkey)
app.command()(bench)
app.command()(chaos)
app.command()(verify)
app.command()(rebuild)
app.command()(prune)
# What stands behind the program is the program's, options too.
app.command(context_settings={"allow_interspersed_args": False})(postgres)
app.add_typer(dlq, name="dlq")


def _settings() -> Settings:
    try:
        settings = load_settings()
        configure_failpoints(settings.wallet_failpoints)
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(settings.log_dir, os.W_OK):
            raise PermissionError(errno.EACCES, "permission denied")
    except OSError as error:
        _give_up(f"Wrong setting: LOG_DIR can't be written to: {error.strerror}.")
    except (InvalidSettings, InvalidFailpoints) as error:
        _give_up(f"Wrong setting: {error}")
    return settings


def _settings_with_database() -> Settings:
    settings = _settings()
    if not settings.has_database:
        _give_up("No database is named: set DATABASE_URL or DB_HOST, or run `./wallet up`, which brings its own.")
    return settings


def _port(settings: Settings, port: int | None) -> int:
    return settings.port if port is None else port


def _serve(run: Run) -> None:
    """Run until done or until SIGTERM or Ctrl-C sets `stop`; a second Ctrl-C still only asks."""

    async def until_stopped() -> None:
        _collect_rarely()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await run(stop)

    try:
        uvloop.run(until_stopped())
    except (CannotStart, *bootstrap.CANNOT_RUN) as error:
        _give_up(str(error) or (type(error).__doc__ or ""))


def _collect_rarely() -> None:
    """What was imported lives for ever, and what a request makes is freed as its last reference goes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, GC_YOUNG, GC_MIDDLE)


def _give_up(message: str) -> NoReturn:
    typer.echo(f"wallet: {message}", err=True)
    sys.exit(1)
