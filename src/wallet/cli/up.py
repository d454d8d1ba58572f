"""`wallet up`: everything on one machine, each process of its own, started and stopped in the right order.

Order: PostgreSQL, migrations, relay and worker, api; stopped the other way round. What happens to a process that ends
by itself, and to all of them when this one is killed, is said in children.py.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import typer

from wallet.cli.children import BackOff, CannotStart, Child, is_set_within, running
from wallet.postgres.connections import connect
from wallet.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.postgres.migrations import MigrationError, migrate
from wallet.queries.readiness import durability_faults
from wallet.settings import Settings

READY_SECONDS_MAX: Final = 60.0
LOOK_SECONDS: Final = 0.5


async def run_up(
    settings: Settings, *, host: str, port: int, api_workers: int, data_dir: Path, stop: asyncio.Event
) -> None:
    """Start everything, say so, and keep it running until `stop`. Raises CannotStart."""
    port = _expect_free_port(host, port)
    async with AsyncExitStack() as stack:
        dsn = settings.dsn if settings.has_database else await stack.enter_async_context(_embedded(data_dir, settings))
        await _migrate(dsn)
        children = [
            Child([*arguments, "--quiet"], name=arguments[0], environment={"DATABASE_URL": dsn})
            for arguments in (
                ["relay"],
                ["worker"],
                ["api", "--host", host, "--port", str(port), "--workers", str(api_workers)],
            )
        ]
        for child in children:
            await stack.enter_async_context(running(child))
        if await _wait_until_ready(f"http://{host}:{port}", children, stop):
            _greet(f"http://{host}:{port}", settings, None if settings.has_database else data_dir)
            await stop.wait()
        typer.echo("stopping")
    typer.echo("stopped")


@asynccontextmanager
async def _embedded(data_dir: Path, settings: Settings) -> AsyncIterator[str]:
    try:
        server = EmbeddedPostgres(data_dir, tell=typer.echo)
        await asyncio.to_thread(server.start)
    except EmbeddedPostgresError as error:
        raise CannotStart(str(error)) from error
    except OSError as error:
        raise CannotStart(f"--data {data_dir} can't be used: {error.strerror or error}.") from error
    stopping = asyncio.Event()
    keeping = asyncio.create_task(_start_again_whenever_it_ends(server, stopping))
    try:
        # Another name is that of a database that was restored beside the first.
        yield urlsplit(server.dsn)._replace(path=f"/{quote(settings.db_name, safe='')}").geturl()
    finally:
        # Not by cancelling: a thread that starts the server would go on, and leave it behind.
        stopping.set()
        try:
            await keeping
        finally:
            await asyncio.to_thread(server.stop)


async def _start_again_whenever_it_ends(server: EmbeddedPostgres, stopping: asyncio.Event) -> None:
    """As children.py does it for our own processes; that the disk is full, say, may be over in a while."""
    back_off = BackOff()
    trouble = ended = f"PostgreSQL ended by itself, see {server.log}"
    while not await is_set_within(stopping, LOOK_SECONDS):
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
        raise CannotStart(str(error)) from error
    except DATABASE_ERRORS as error:
        raise CannotStart(f"The database can't be reached: {str(error) or type(error).__name__}") from error


async def _expect_durable_commits(dsn: str) -> None:
    connection = await connect(dsn, application_name="wallet up")
    try:
        faults = await durability_faults(connection)
    finally:
        await connection.close()
    if faults:
        raise CannotStart(f"This PostgreSQL may lose what it has committed: {', '.join(faults)}. Mend that first.")


def _expect_free_port(host: str, port: int) -> int:
    """Find out now rather than in a child; port 0 becomes a free one."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise CannotStart(
            f"Can't listen on {host}:{port}: {os.strerror(error.errno) if error.errno else error}. "
            "Stop what uses it, or choose another with --port."
        ) from error


async def _wait_until_ready(url: str, children: list[Child], stop: asyncio.Event) -> bool:
    """Whether it became ready before `stop`. Raises CannotStart if a child ends or it takes too long."""
    try:
        async with asyncio.timeout(READY_SECONDS_MAX):
            while not stop.is_set():
                for child in children:
                    child.expect_not_ended()
                if await asyncio.to_thread(_answers_ready, url):
                    for child in children:
                        child.mark_started()
                    return True
                await is_set_within(stop, 0.1)
    except TimeoutError:
        raise CannotStart(f"Not ready after {READY_SECONDS_MAX:g} s; see {url}/readyz and the logs.") from None
    return False


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
