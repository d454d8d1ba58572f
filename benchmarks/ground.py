"""The environment of every scenario: a private PostgreSQL and RabbitMQ, template databases, and the wallet's processes.

This process starts all of them and ends them by process id: in order at the end or at Ctrl-C. If this process is
killed, the reaper (a process that outlives it briefly) ends them.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import asyncpg

from benchmarks.effort import Effort
from benchmarks.loading import Books, load
from benchmarks.scenarios import WALLETS
from tests.support.postgres import PostgresServer
from tests.support.processes import Processes, WalletProcess
from tests.support.rabbitmq import RabbitMQServer, find_scripts
from tests.support.rabbitmq_docker import DockerRabbitMQServer
from tests.support.reaper import Reaper

POSTGRES_SETTINGS: Final = {
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",  # Checkpoints happen before a measurement (`checkpoint`), not during it.
    "checkpoint_timeout": "30min",
}
"""In addition to the durable settings of the embedded server. They apply to the wallet and to the yardsticks."""

SEEDED: Final = Books(wallet_count=WALLETS, deposits_per_wallet=1)
WAITING: Final = Books(wallet_count=WALLETS, deposits_per_wallet=1, waiting_events=100_000)
YARDSTICKS: Final = Path(__file__).parent / "yardsticks"


class Ground:
    """The servers of one run of the benchmark. `with` starts PostgreSQL; the first use of `rabbitmq` starts that."""

    def __init__(self, effort: Effort) -> None:
        self.effort = effort
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._reaper = stack.enter_context(Reaper())
            self.directory = Path(tempfile.mkdtemp(prefix="wallet-bench-"))
            self._reaper.watch_directory(self.directory)
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.postgres = stack.enter_context(PostgresServer(self._reaper, POSTGRES_SETTINGS))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @cached_property
    def rabbitmq(self) -> RabbitMQServer:
        """Returns the broker. Its queues are durable, as the service declares them."""
        scripts = find_scripts()
        server = RabbitMQServer(self._reaper, scripts) if scripts else DockerRabbitMQServer(self._reaper)
        return self._stack.enter_context(server)

    @contextmanager
    def vhost(self) -> Iterator[str]:
        """Creates a virtual host of the broker, and deletes it with its queues at the end."""
        url = self.rabbitmq.create_vhost()
        try:
            yield url
        finally:
            self.rabbitmq.ctl("delete_vhost", urlsplit(url).path[1:])

    @contextmanager
    def second_postgres(self, **settings: str) -> Iterator[PostgresServer]:
        """Starts a second server, for a measurement that needs a setting which the other measurements must not have."""
        with PostgresServer(self._reaper, POSTGRES_SETTINGS | settings) as server:
            yield server

    @contextmanager
    def database(self, template: str) -> Iterator[str]:
        """Copies a database, and drops the copy at the end."""
        with self._dropped(self.postgres.copy_database(template)) as url:
            yield url

    @contextmanager
    def loaded(self, *books: Books, server: PostgresServer | None = None) -> Iterator[str]:
        """Creates a database with these books, and drops it at the end."""
        server = server or self.postgres
        with self._dropped(server.create_database(), server) as url:
            for each in books:
                load(url, each, reaper=self._reaper)
            yield url

    @contextmanager
    def _dropped(self, url: str, server: PostgresServer | None = None) -> Iterator[str]:
        try:
            yield url
        finally:
            (server or self.postgres).drop_database(url)

    @cached_property
    def seeded(self) -> str:
        """Returns the template database in which every wallet has money and no event waits."""
        return self._stack.enter_context(self.loaded(SEEDED))

    @cached_property
    def waiting(self) -> str:
        """Returns the template database that has the same wallets, and 100,000 committed events that are not sealed."""
        return self._stack.enter_context(self.loaded(WAITING))

    @cached_property
    def yardstick(self) -> str:
        """Returns the template database with the tables of the yardsticks."""
        url = self.postgres.create_database(migrated=False)
        self._stack.callback(self.postgres.drop_database, url)
        query(url, (YARDSTICKS / "schema.sql").read_text(encoding="utf-8"))
        return url

    @contextmanager
    def service(self, database_url: str, rabbitmq_url: str = "") -> Iterator["Service"]:
        """Yields a service without running processes on a database, and ends all its processes at the end."""
        directory = Path(tempfile.mkdtemp(prefix="service-", dir=self.directory))
        service = Service(Processes(directory, self._reaper), database_url, rabbitmq_url)
        try:
            yield service
        finally:
            service.end()
            shutil.rmtree(directory, ignore_errors=True)


class Service:
    """The wallet's processes, as they run in production, and the addresses of their database and broker."""

    def __init__(self, processes: Processes, database_url: str, rabbitmq_url: str) -> None:
        self._processes = processes
        self.database_url = database_url
        self.rabbitmq_url = rabbitmq_url

    def start_api(self, *arguments: str) -> WalletProcess:
        """Starts `wallet api`, and waits until it is ready."""
        api = self._start("api", *arguments)
        self._processes.wait_until(api, lambda: "api_ready" in api.logs() + api.output())
        return api

    def start(self, command: str) -> WalletProcess:
        """Starts `wallet relay` or `wallet worker`, and waits until it logs that it has started."""
        process = self._start(command)
        self._processes.wait_until(process, lambda: f"{command}_started" in process.logs())
        return process

    def spawn(self, command: str) -> WalletProcess:
        """Starts a process without waiting."""
        return self._start(command)

    def end(self) -> None:
        """Ends all processes that still run."""
        self._processes.stop_all()

    def _start(self, command: str, *arguments: str) -> WalletProcess:
        settings = {"DATABASE_URL": self.database_url, "RABBITMQ_URL": self.rabbitmq_url}
        return self._processes.start(command, "--quiet", *arguments, settings=settings)


def query(url: str, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """Executes a statement on a new connection. Returns its rows as tuples.

    Without arguments it may also be a script with several statements; then there are no rows.
    """

    async def fetch() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            if arguments:
                return [tuple(row) for row in await connection.fetch(statement, *arguments)]
            if ";" in statement:
                await connection.execute(statement)
                return []
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    return asyncio.run(fetch())


def checkpoint(url: str) -> None:
    """Runs a checkpoint, so that every measurement begins at the same distance from the next one."""
    query(url, "checkpoint")
