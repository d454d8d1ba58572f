"""The embedded PostgreSQL: its data outlive it, it outlives no parent, and it is never two."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.support.database import execute, fetch_value
from tests.support.postgres import run_apart
from tests.support.sessions import family_of, wait_until_ended
from tests.support.waiting import eventually_blocking
from wallet.postgres.embedded import EmbeddedPostgres, InUse, StartFailed

ROOT = Path(__file__).parents[2]

PARENT = """
import signal, sys
from pathlib import Path
from wallet.postgres.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
signal.pause()
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A directory that every user can enter, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp(prefix="wallet-embedded-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def server(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A server that runs."""
    with EmbeddedPostgres(data_dir) as server:
        yield server


def value_on(server: EmbeddedPostgres, query: str) -> object:
    return run_apart(fetch_value(server.dsn, query))


def test_data_are_there_again_after_stop_and_start(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        run_apart(execute(server.dsn, "create table kept as select 42 as answer"))
    with EmbeddedPostgres(data_dir) as server:
        assert value_on(server, "select answer from kept") == 42


def test_it_runs_with_durable_and_closed_settings(server: EmbeddedPostgres) -> None:
    expected = {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "data_checksums": "on",
        "server_encoding": "UTF8",
        "password_encryption": "scram-sha-256",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "TimeZone": "UTC",
    }
    assert {name: value_on(server, f"show {name}") for name in expected} == expected


async def test_a_wrong_password_is_refused(server: EmbeddedPostgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.dsn, password="guessed")


def test_the_password_is_readable_by_its_owner_alone(server: EmbeddedPostgres) -> None:
    assert stat.S_IMODE((server.data_dir / "password").stat().st_mode) == 0o600


def test_stop_leaves_no_process(data_dir: Path) -> None:
    before = psutil.Process().children(recursive=True)
    with EmbeddedPostgres(data_dir):
        family = [child for child in psutil.Process().children(recursive=True) if child not in before]
        assert len(family) > 2
    assert not any(child.is_running() for child in family)


def test_a_second_server_on_the_same_data_is_refused_with_its_reason(server: EmbeddedPostgres) -> None:
    with pytest.raises(InUse, match=str(server.data_dir)):
        EmbeddedPostgres(server.data_dir).start()
    assert server.pid is not None


def test_a_port_in_use_is_reported_with_the_servers_message(server: EmbeddedPostgres) -> None:
    other = Path(tempfile.mkdtemp(prefix="wallet-embedded-"))
    try:
        with pytest.raises(StartFailed, match="could not bind"):
            EmbeddedPostgres(other, port=server.port).start()
    finally:
        shutil.rmtree(other)


def test_it_starts_again_after_a_sigkill_of_the_server(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as killed:
        run_apart(execute(killed.dsn, "create table kept as select 42 as answer"))
        assert killed.pid is not None
        os.kill(killed.pid, signal.SIGKILL)
    assert (data_dir / "pgdata" / "postmaster.pid").exists()
    with EmbeddedPostgres(data_dir) as server:
        assert value_on(server, "select answer from kept") == 42


def test_a_stale_pid_file_that_names_a_living_stranger_does_no_harm(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as killed:
        assert killed.pid is not None
        os.kill(killed.pid, signal.SIGKILL)
    pid_file = data_dir / "pgdata" / "postmaster.pid"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:], ""]))
        with EmbeddedPostgres(data_dir) as server:
            assert value_on(server, "select 1") == 1
        assert stranger.poll() is None
        stranger.communicate()


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_in_order_when_its_parent_is_killed(data_dir: Path, signal_number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PARENT, data_dir],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        family = family_of(int(parent.stdout.readline()))
        parent.send_signal(signal_number)
    wait_until_ended(family)
    assert "database system is shut down" in (data_dir / "postgres.log").read_text()
    with EmbeddedPostgres(data_dir) as server:
        assert value_on(server, "select 1") == 1


def test_an_interrupted_first_use_is_begun_again(data_dir: Path) -> None:
    (data_dir / "pgdata.new").mkdir()
    (data_dir / "pgdata.new" / "PG_VERSION").write_text("half a cluster")
    with EmbeddedPostgres(data_dir) as server:
        assert server.pid is not None


@as_root
def test_started_by_root_it_runs_as_an_unprivileged_user(server: EmbeddedPostgres) -> None:
    assert psutil.Process(server.pid).uids().effective != 0
    assert (server.data_dir / "pgdata").stat().st_uid == psutil.Process(server.pid).uids().effective


@as_root
def test_data_asked_for_where_the_user_cannot_go_are_put_elsewhere_and_that_is_reported() -> None:
    reported: list[str] = []
    closed = Path(tempfile.mkdtemp(prefix="wallet-closed-"))
    try:
        server = EmbeddedPostgres(closed / "data", tell=reported.append)
        assert server.data_dir.parent == Path("/var/lib/wallet")
        assert reported == [f"the database's user cannot enter {closed}/data; its data are in {server.data_dir}"]
        with server:
            eventually_blocking(lambda: server.pid is not None)
        assert EmbeddedPostgres(closed / "data").data_dir == server.data_dir
        shutil.rmtree(server.data_dir)
    finally:
        shutil.rmtree(closed)
        with suppress(OSError):
            Path("/var/lib/wallet").rmdir()
