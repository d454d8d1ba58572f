"""The commands of `./wallet`: each reads the settings once and runs one process or one errand."""

import asyncio
import errno
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer
import uvloop

from wallet import bootstrap
from wallet.cli.contracts import contracts
from wallet.cli.dlq import dlq
from wallet.cli.monkey import monkey
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
Quiet = Annotated[bool, typer.Option("--quiet", help="Log to the file in LOG_DIR only.")]

Run = Callable[[asyncio.Event], Awaitable[None]]


def main() -> None:
    """Entry point of the `wallet` command."""
    app()


@app.command()
def up(
    host: Host = "127.0.0.1",
    port: Port = None,
    data: Annotated[Path, typer.Option(help="Where the embedded PostgreSQL keeps its data.")] = Path("data"),
) -> None:
    """Run everything on this machine: api, relay, worker, and a PostgreSQL where no database is named."""
    from wallet.cli.up import CannotStart, run_up

    settings = _settings()
    try:
        _serve(lambda stop: run_up(settings, host=host, port=_port(settings, port), data_dir=data, stop=stop))
    except CannotStart as error:
        _give_up(str(error))


@app.command()
def api(host: Host = "127.0.0.1", port: Port = None, quiet: Quiet = False) -> None:
    """Run the HTTP api."""
    settings = _settings_with_database()
    with logging_to(settings, "api", on_terminal=not quiet):
        _serve(lambda stop: bootstrap.run_api(settings, host=host, port=_port(settings, port), stop=stop))


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
        applied = asyncio.run(migrate(settings.dsn))
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
    typer.echo(json.dumps(bootstrap.openapi_document(), indent=2))


app.command()(contracts)
app.command()(monkey)
app.command()(verify)
app.command()(rebuild)
app.command()(prune)
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
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await run(stop)

    try:
        uvloop.run(until_stopped())
    except bootstrap.CANNOT_RUN as error:
        _give_up(str(error) or (type(error).__doc__ or ""))


def _give_up(message: str) -> NoReturn:
    typer.echo(f"wallet: {message}", err=True)
    sys.exit(1)
