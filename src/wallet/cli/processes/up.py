"""`wallet up`: all processes on one machine, started and stopped in the right order.

Order: PostgreSQL, migrations, relay and worker, api; stopped in reverse order. `ready` is printed when the api
responds, the relay seals (or another one does), and the worker follows its transport. An unavailable RabbitMQ delays
only events, so it does not delay `ready`, but a note is printed with it. children.py describes what happens to a
process that ends by itself, and to all of them when this one is killed.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import typer
from rich.console import Console

from wallet.cli.errands import EXIT_FAILED, EXIT_UNREACHABLE, EXIT_WRONG_CALL, exit_code_of
from wallet.cli.processes.children import BackOff, CannotStart, Child, running
from wallet.cli.processes.request_lines import Tail, show_requests
from wallet.cli.running_up import recorded
from wallet.postgres.connections import connect
from wallet.postgres.embedded import BinariesMissing, EmbeddedPostgres, EmbeddedPostgresError, InUse
from wallet.postgres.errors import DATABASE_ERRORS, sentence_about
from wallet.postgres.migrations import MigrationError, migrate
from wallet.queries.reading import durability_faults
from wallet.runtime.loop import is_set_within
from wallet.runtime.settings import Settings
from wallet.runtime.started import Started

READY_SECONDS_MAX: Final = 60.0
ALIVE_SECONDS: Final = 0.5
"""The interval of the check that PostgreSQL still runs."""
PORT_MAX: Final = 65_535
API_OFFSET, RELAY_OFFSET, WORKER_OFFSET = 0, 1, 2
"""Added to ADMIN_PORT, because the processes of one machine can't share a port."""


async def run_up(
    settings: Settings, *, host: str, port: int, api_workers: int, data_dir: Path, quiet: bool, stop: asyncio.Event
) -> None:
    """Start everything, print `ready`, and keep it running until `stop`. Raises CannotStart."""
    port = _expect_free_port(host, port)
    _expect_free_admin_ports(settings)
    async with AsyncExitStack() as stack:
        dsn = settings.dsn if settings.has_database else await stack.enter_async_context(_embedded(data_dir, settings))
        await _migrate(dsn)
        relay, worker, api = children = [
            Child([*arguments, "--quiet"], name=arguments[0], environment=_environment(settings, dsn, admin_offset))
            for admin_offset, arguments in (
                (RELAY_OFFSET, ["relay"]),
                (WORKER_OFFSET, ["worker"]),
                (API_OFFSET, ["api", "--host", host, "--port", str(port), "--workers", str(api_workers)]),
            )
        ]
        for child in children:
            await stack.enter_async_context(running(child))
        url = _reachable_url(host, port)
        if await _wait_until_ready(_Starting(url, relay, worker, api, has_broker=settings.amqp_url is not None), stop):
            data = None if settings.has_database else data_dir
            stack.enter_context(recorded(settings, url=url, data=data))
            # Opened before `ready` is printed: the first request after it is shown.
            tail = Tail(settings.log_dir / "api.log")
            _greet(url, settings, data)
            if worker.has_reported(Started.BROKER_IS_AWAY) and not worker.has_reported(Started.CONSUMES):
                typer.echo("RabbitMQ can't be reached: events wait in the journal until it is back\n")
            await _run_until(stop, tail, settings, quiet=quiet)
        typer.echo("stopping")
    typer.echo("stopped")


def _environment(settings: Settings, dsn: str, admin_offset: int) -> dict[str, str]:
    """Returns the variables that are added to a child's environment."""
    if settings.admin_port is None:
        return {"DATABASE_URL": dsn}
    return {"DATABASE_URL": dsn, "ADMIN_PORT": str(settings.admin_port + admin_offset)}


@asynccontextmanager
async def _embedded(data_dir: Path, settings: Settings) -> AsyncIterator[str]:
    try:
        server = EmbeddedPostgres(data_dir, tell=typer.echo)
        await asyncio.to_thread(server.start)
    except (BinariesMissing, InUse) as error:
        raise CannotStart(str(error), EXIT_WRONG_CALL) from error
    except EmbeddedPostgresError as error:
        raise CannotStart(str(error), EXIT_UNREACHABLE) from error
    except OSError as error:
        raise CannotStart(f"--data {data_dir} can't be used: {error.strerror or error}.", EXIT_WRONG_CALL) from error
    stopping = asyncio.Event()
    keeping = asyncio.create_task(_start_again_whenever_it_ends(server, stopping))
    try:
        # DB_NAME may name a database that was restored beside the first one.
        yield urlsplit(server.dsn)._replace(path=f"/{quote(settings.db_name, safe='')}").geturl()
    finally:
        # Not cancelled: a thread that starts the server would continue, and leave the server running.
        stopping.set()
        try:
            await keeping
        finally:
            await asyncio.to_thread(server.stop)


async def _start_again_whenever_it_ends(server: EmbeddedPostgres, stopping: asyncio.Event) -> None:
    """Restart PostgreSQL as children.py restarts our own processes; a cause such as a full disk may be temporary."""
    back_off = BackOff()
    trouble = ended = f"PostgreSQL ended by itself, see {server.log}"
    while not await is_set_within(stopping, ALIVE_SECONDS):
        if server.pid is not None:
            continue
        delay = back_off.next_delay()
        typer.echo(f"{trouble}; starting it again in {delay:g} s", err=True)
        if await is_set_within(stopping, delay):
            return
        back_off.begins()
        try:
            await asyncio.to_thread(server.start_again)
        except (EmbeddedPostgresError, OSError) as error:
            trouble = str(error)
        else:
            trouble = ended
            typer.echo("PostgreSQL runs again", err=True)


async def _migrate(dsn: str) -> None:
    try:
        for name in await migrate(dsn, tell=typer.echo):
            typer.echo(f"applied migration {name}")
        await _expect_durable_commits(dsn)
    except MigrationError as error:
        raise CannotStart(str(error), EXIT_FAILED) from error
    except DATABASE_ERRORS as error:
        raise CannotStart(sentence_about(error), exit_code_of(error)) from error


async def _expect_durable_commits(dsn: str) -> None:
    connection = await connect(dsn, application_name="wallet up")
    try:
        faults = await durability_faults(connection)
    finally:
        await connection.close()
    if faults:
        raise CannotStart(f"This PostgreSQL may lose what it has committed: {', '.join(faults)}. Fix that first.")


def _expect_free_admin_ports(settings: Settings) -> None:
    if settings.admin_port is None:
        return
    ports = [settings.admin_port + offset for offset in (API_OFFSET, RELAY_OFFSET, WORKER_OFFSET)]
    if ports[-1] > PORT_MAX:
        raise CannotStart(
            f"ADMIN_PORT {settings.admin_port} is too high: `up` uses it and the {WORKER_OFFSET} ports after it.",
            EXIT_WRONG_CALL,
        )
    for port in ports:
        _expect_free_port(settings.admin_host, port, setting="ADMIN_PORT")


def _expect_free_port(host: str, port: int, setting: str = "--port") -> int:
    """Check the port now rather than in a child; port 0 becomes a free one. Raises CannotStart."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise CannotStart(
            f"Can't listen on {host}:{port}: {os.strerror(error.errno) if error.errno else error}. "
            f"Stop what uses it, or choose another with {setting}.",
            EXIT_WRONG_CALL,
        ) from error


def _reachable_url(host: str, port: int) -> str:
    """Returns an address for clients on this machine; on some systems a wildcard address can't be connected to."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"


@dataclass(frozen=True, slots=True)
class _Starting:
    """The child processes while they start."""

    url: str
    relay: Child
    worker: Child
    api: Child
    has_broker: bool

    @property
    def children(self) -> list[Child]:
        """Returns all of them."""
        return [self.relay, self.worker, self.api]

    async def missing(self) -> list[str]:
        """Returns the names of the processes that are not ready yet."""
        transport = [Started.CONSUMES, Started.BROKER_IS_AWAY] if self.has_broker else [Started.FOLLOWS_JOURNAL]
        is_ready = {
            self.relay: self.relay.has_reported(Started.LEADS, Started.STANDS_BY),
            self.worker: self.worker.has_reported(*transport),
            self.api: await asyncio.to_thread(_answers_ready, self.url),
        }
        return [child.name for child, is_done in is_ready.items() if not is_done]


async def _wait_until_ready(starting: _Starting, stop: asyncio.Event) -> bool:
    """Returns whether all became ready before `stop`. Raises CannotStart if a child ends or it takes too long."""
    missing: list[str] = []
    try:
        async with asyncio.timeout(READY_SECONDS_MAX):
            while not stop.is_set():
                for child in starting.children:
                    child.expect_not_ended()
                missing = await starting.missing()
                if not missing:
                    for child in starting.children:
                        child.mark_started()
                    return True
                await is_set_within(stop, 0.1)
    except TimeoutError:
        raise CannotStart(
            f"Not ready after {READY_SECONDS_MAX:g} s: {', '.join(missing) or 'unknown'}; "
            f"see {starting.url}/readyz and the logs.",
            EXIT_UNREACHABLE,
        ) from None
    return False


async def _run_until(stop: asyncio.Event, tail: Tail, settings: Settings, *, quiet: bool) -> None:
    """Wait for `stop`. On a terminal, print a line for each request meanwhile."""
    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal and not quiet and not settings.logs_each_request:
        typer.echo("requests are not shown, as LOG_REQUESTS or LOG_LEVEL keeps them out of the log\n")
        tail.close()
    elif console.is_terminal and not quiet:
        # If the terminal was closed, only the lines end, not the service.
        with suppress(OSError):
            await show_requests(tail, console, stop)
    else:
        tail.close()
    await stop.wait()


def _answers_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/readyz", timeout=2) as response:  # noqa: S310 - our own http address
            return bool(response.status == HTTPStatus.OK)
    except (URLError, OSError):
        return False


def _greet(url: str, settings: Settings, data_dir: Path | None) -> None:
    transport = "RabbitMQ" if settings.amqp_url else "the journal, as no RABBITMQ_URL is set"
    database = "the one you named" if data_dir is None else f"in {data_dir.resolve()}"
    typer.echo(
        f"""
ready {url}

  deposit   curl -X POST {url}/wallet/alice/deposit  -H 'content-type: application/json' -d '{{"amount": 100}}'
  withdraw  curl -X POST {url}/wallet/alice/withdraw -H 'content-type: application/json' -d '{{"amount": 25.50}}'
  transfer  curl -X POST {url}/wallet/alice/transfer -H 'content-type: application/json' \\
                 -d '{{"toWalletId": "bob", "amount": 10}}'

  docs      {url}/docs
  database  {database}
  logs      in {settings.log_dir.resolve()}
  events    by {transport}

Ctrl-C stops everything; the data stays.
"""
    )
