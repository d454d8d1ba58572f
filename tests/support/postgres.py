"""One PostgreSQL server for a test run, and a fresh migrated database for each test.

The server is the product's embedded one, with durable settings, because /readyz checks them. Migrating takes
longer than copying, so the migrations run once, in a template from which every test's database is cloned.
"""

import asyncio
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import asyncpg

from tests.support.database import connected, execute
from tests.support.ports import free_port
from tests.support.reaper import Reaper
from tests.support.waiting import eventually_blocking
from wallet.postgres.embedded import EmbeddedPostgres
from wallet.postgres.migrations import migrate

Result = TypeVar("Result")

LOG_CHARACTERS_SHOWN = 4_000
UNUSED_SECONDS_MAX = 60.0
"""A terminated session remains as long as it waits for the disk."""
HUNG_SECONDS = 0.5
"""A COMMIT that takes longer than this waits for a standby."""
TEMPLATE = "wallet_template"
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 6 * 1024**3
SETTINGS = {"max_connections": "300", "shared_buffers": "64MB", "max_wal_size": "2GB"}


class PostgresServer:
    """A private server in a private directory; `with` starts it, and removes its processes and files at the end.

    With `in_memory`, its files are in memory where the machine has room for them: creating a database creates 300
    files, which takes a disk several tenths of a second. Experiments and measurements use a disk, as production does.
    """

    def __init__(self, reaper: Reaper, settings: Mapping[str, str] | None = None, *, in_memory: bool = False) -> None:
        self._reaper = reaper
        # Not pytest's own directory: if the tests run as root, PostgreSQL's user has no access to that.
        parent = memory_directory() if in_memory else None
        self.directory = Path(tempfile.mkdtemp(prefix="wallet-postgres-", dir=parent))
        self._reaper.watch_directory(self.directory)
        self._settings = SETTINGS | dict(settings or {})
        self._embedded = EmbeddedPostgres(self.directory, port=free_port(), settings=self._settings)
        self._process_group: int | None = None
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    def start(self) -> None:
        """Starts the server, on the same port as before, so that clients can reconnect."""
        port = self._embedded.port
        self._embedded = EmbeddedPostgres(self.directory, port=port, settings=self._settings)
        self._embedded.start()
        self._process_group = self.pid
        self._reaper.watch_group(self.pid)

    def stop(self) -> None:
        """Stops the server by a fast shutdown; its data is kept."""
        self._embedded.stop()
        if self._process_group is not None:
            self._reaper.forget_group(self._process_group)
            self._process_group = None

    def kill(self) -> None:
        """Kills the postmaster with SIGKILL; its backends end by themselves."""
        os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def damage(self, url: str, table: str) -> None:
        """Overwrites the first page of a table's file, as a faulty disk may do. Restarts the server for this."""
        path = self.directory / "pgdata" / str(run_apart(self._path_of(url, table)))
        self.stop()
        with path.open("r+b") as file:
            file.write(b"\xa5" * 8192)
        self.start()

    @staticmethod
    async def _path_of(url: str, table: str) -> str:
        async with connected(url) as connection:
            # A checkpoint writes the page now: otherwise the write-ahead log would repair the page at the start.
            await connection.execute("checkpoint")
            return str(await connection.fetchval("select pg_relation_filepath($1::text::regclass)", table))

    def hang_commits(self) -> None:
        """From now on no COMMIT is answered: each waits for a synchronous standby that does not exist."""
        self._wait_for_standby("nobody")
        eventually_blocking(lambda: run_apart(self._does_hang()))

    def release_commits(self) -> None:
        """COMMITs are answered again, including those that wait."""
        self._wait_for_standby("")

    def _wait_for_standby(self, name: str) -> None:
        run_apart(self.execute(f"alter system set synchronous_standby_names = '{name}'"))
        run_apart(self.execute("select pg_reload_conf()"))

    async def _does_hang(self) -> bool:
        """Returns whether the server's processes have read the setting; it uses the database that no test uses."""
        try:
            await asyncio.wait_for(self.execute(f"create table hung_{next(self._numbers)} ()"), HUNG_SECONDS)
        except TimeoutError:
            return True
        return False

    @property
    def pid(self) -> int:
        """Returns the postmaster's process id."""
        assert self._embedded.pid is not None, f"PostgreSQL does not run; see {self._embedded.log}"
        return self._embedded.pid

    @property
    def log(self) -> Path:
        """Returns the path of PostgreSQL's own log."""
        return self._embedded.log

    def report(self) -> str:
        """Returns the end of that log, for a test that failed."""
        return f"--- PostgreSQL\n{self.log.read_text(errors='replace')[-LOG_CHARACTERS_SHOWN:]}"

    def url(self, database: str) -> str:
        """Returns the address of one database on this server."""
        return urlsplit(self._embedded.dsn)._replace(path=f"/{database}").geturl()

    def create_database(self, *, migrated: bool = True) -> str:
        """Creates a database, migrated or empty, and returns its address."""
        template = TEMPLATE if migrated else "template0"
        if migrated and not run_apart(self._exists(TEMPLATE)):
            run_apart(self._make_template())
        database = f"wallet_{next(self._numbers)}"
        run_apart(self.execute(f"create database {database} template {template}"))
        return self.url(database)

    def copy_database(self, url: str) -> str:
        """Copies a database as soon as no session is connected to it, and returns the copy's address."""
        eventually_blocking(lambda: run_apart(self._is_unused(url)), within=UNUSED_SECONDS_MAX)
        database = f"wallet_{next(self._numbers)}"
        run_apart(self.execute(f"create database {database} template {urlsplit(url).path[1:]}"))
        return self.url(database)

    def drop_database(self, url: str) -> None:
        """Drops a database and terminates its sessions, and waits until it is dropped."""
        eventually_blocking(lambda: run_apart(self._has_dropped(urlsplit(url).path[1:])), within=UNUSED_SECONDS_MAX)

    async def _is_unused(self, url: str) -> bool:
        name = urlsplit(url).path[1:]
        return await self.execute(f"select from pg_stat_activity where datname = '{name}'") == "SELECT 0"

    async def _make_template(self) -> None:
        await self.execute(f"create database {TEMPLATE} template template0")
        await migrate(self.url(TEMPLATE))
        # A template with a connected session can't be cloned, so no connections are allowed.
        await self.execute(f"alter database {TEMPLATE} with allow_connections false is_template true")

    async def _exists(self, database: str) -> bool:
        return bool(await self.execute(f"select from pg_database where datname = '{database}'") == "SELECT 1")

    async def _has_dropped(self, database: str) -> bool:
        try:
            await self.execute(f"drop database if exists {database} with (force)")
        except asyncpg.ObjectInUseError:
            return False  # PostgreSQL waits for five seconds; a session that waits for the disk takes longer.
        return True

    async def execute(self, statement: str) -> str:
        return await execute(self.url("postgres"), statement)


def memory_directory() -> Path | None:
    """Returns a directory whose files are in memory, or None where there is none with enough room."""
    has_room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN
    return MEMORY if has_room else None


def run_apart(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Runs a coroutine to its end in a new event loop, even if the caller is inside another loop."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, coroutine).result()
