"""`wallet up` as a new user meets it."""

import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from tests.support.client import deposit_once, total_deposited
from tests.support.database import execute
from tests.support.postgres import run_apart
from tests.support.processes import Processes, WalletProcess
from tests.support.sessions import family_of, wait_until_ended
from tests.support.waiting import eventually_blocking


def test_everything_starts_stops_cleanly_and_finds_its_data_again(processes: Processes, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert_one_run(processes, data, signal.SIGTERM, balance="5.0000")
    assert_one_run(processes, data, signal.SIGINT, balance="10.0000")


def assert_one_run(processes: Processes, data: Path, signal_number: int, *, balance: str) -> None:
    up = processes.start_up("--data", str(data))
    family = family_of(up.pid)
    assert len(family) > 4
    assert deposit_once(up.url).json()["balance"] == balance
    eventually_blocking(lambda: total_deposited(up.url) == balance)
    assert up.stop(signal_number) == 0
    assert not [process for process in family if process.is_running()]
    assert "ready http://127.0.0.1:" in up.output()
    assert "curl -X POST" in up.output()


def test_nothing_outlives_a_killed_up(processes: Processes, tmp_path: Path) -> None:
    data = tmp_path / "data"
    up = processes.start_up("--data", str(data))
    deposit_once(up.url)
    family = family_of(up.pid)
    psutil.Process(up.pid).kill()
    wait_until_ended(family, within=30)
    again = processes.start_up("--data", str(data))
    assert deposit_once(again.url).json()["balance"] == "10.0000"
    again.stop()


def test_a_child_that_dies_is_started_again(processes: Processes, tmp_path: Path) -> None:
    up = processes.start_up("--data", str(tmp_path / "data"))
    api = next(each for each in family_of(up.pid) if each.is_running() and "api" in each.cmdline()[1:])
    api.kill()
    eventually_blocking(lambda: "api ended by itself" in up.output())
    eventually_blocking(lambda: is_ready(up.url))
    assert deposit_once(up.url).json()["balance"] == "5.0000"
    assert up.stop() == 0


def test_a_postgres_that_dies_is_started_again_as_soon_as_it_can_be(processes: Processes, tmp_path: Path) -> None:
    up = processes.start_up("--data", str(tmp_path / "data"))
    assert deposit_once(up.url).json()["balance"] == "5.0000"
    kill_postgres(up)
    eventually_blocking(lambda: "PostgreSQL runs again" in up.output())
    eventually_blocking(lambda: is_ready(up.url))
    assert deposit_once(up.url).json()["balance"] == "10.0000"
    settings = tmp_path / "data" / "pgdata" / "postgresql.conf"
    settings.rename(settings.with_suffix(".away"))
    kill_postgres(up)
    eventually_blocking(lambda: "PostgreSQL did not start" in up.output())
    settings.with_suffix(".away").rename(settings)
    eventually_blocking(lambda: up.output().count("PostgreSQL runs again") == 2)
    eventually_blocking(lambda: is_ready(up.url))
    assert deposit_once(up.url).json()["balance"] == "15.0000"
    assert up.stop() == 0


def test_a_stop_does_not_wait_for_a_postgres_that_cannot_start(processes: Processes, tmp_path: Path) -> None:
    up = processes.start_up("--data", str(tmp_path / "data"))
    settings = tmp_path / "data" / "pgdata" / "postgresql.conf"
    settings.rename(settings.with_suffix(".away"))
    kill_postgres(up)
    eventually_blocking(lambda: "PostgreSQL did not start" in up.output())
    family = family_of(up.pid)
    assert up.stop() == 0
    assert not [process for process in family if process.is_running()]


def kill_postgres(up: WalletProcess) -> None:
    next(each for each in family_of(up.pid) if each.is_running() and "-D" in each.cmdline()).kill()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_a_stop_while_it_starts_leaves_nothing_behind(processes: Processes, tmp_path: Path) -> None:
    for number, moment in enumerate(("applied migration 0001", "applied migration 0003")):
        up = processes.start("up", "--data", str(tmp_path / f"data-{number}"), settings={})
        processes.wait_until(up, lambda up=up, moment=moment: moment in up.output(), within=30)  # type: ignore[misc]
        family = family_of(up.pid)
        assert up.stop() == 0
        assert not [process for process in family if process.is_running()]
        assert up.output().endswith("stopped\n")


def test_commits_that_are_not_durable_stop_the_start(processes: Processes, database_url: str) -> None:
    database = urlsplit(database_url).path.removeprefix("/")
    run_apart(execute(database_url, f"alter database {database} set synchronous_commit = off"))
    up = processes.start("up", settings={"DATABASE_URL": database_url})
    assert up.wait() == 1
    assert "synchronous_commit" in up.output()


def test_a_directory_that_cannot_be_used_is_one_clear_line(processes: Processes) -> None:
    for arguments, settings, name in (
        (["up", "--data", "/proc/nope"], {}, "--data"),
        (["up"], {"LOG_DIR": "/proc/nope"}, "LOG_DIR"),
        (["api"], {"LOG_DIR": "/proc/nope", "DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x"}, "LOG_DIR"),
    ):
        command, *rest = arguments
        refused = processes.start(command, *rest, settings=settings)
        assert refused.wait() == 2
        assert refused.output().count("\n") == 1, refused.output()
        assert name in refused.output()


def test_a_port_in_use_is_one_clear_line(processes: Processes, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = processes.start("up", "--data", str(tmp_path / "data"), settings={"PORT": str(port)})
        assert up.wait() == 2
    assert up.output().count("\n") == 1
    assert f"127.0.0.1:{port}" in up.output()
    assert "--port" in up.output()


def test_a_wrong_setting_is_one_clear_line_naming_it(processes: Processes, tmp_path: Path) -> None:
    wrong = [
        ("REQUEST_DEADLINE_SECONDS", "soon"),
        ("RABBITMQ_URL", "http://guest:hunter2@localhost"),
        ("RABBITMQ_URL", "amqp://guest:hunter2@localhost:notaport/"),
        ("WALLET_FAILPOINTS", "ledger.nowhere=kill"),
        ("FRAUD_LARGE_WITHDRAWAL_THRESHOLD", "-1"),
        ("TRUSTED_PROXIES", "somewhere"),
        ("DATABASE_URL", "mysql://localhost/x"),
        ("DATABASE_URL", "postgresql://u:hunter2/x@127.0.0.1/x"),
        ("DATABASE_URL", "postgresql://u:hunter2@[bad/x"),
    ]
    for name, value in wrong:
        up = processes.start("up", "--data", str(tmp_path / "data"), settings={name: value})
        assert up.wait() == 2
        assert up.output().count("\n") == 1, up.output()
        assert name in up.output()
        assert "hunter2" not in up.output()


def test_a_database_that_is_named_but_absent_is_one_clear_line(processes: Processes, tmp_path: Path) -> None:
    up = processes.start("up", settings={"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x"})
    assert up.wait() == 3
    assert "can't be reached" in up.output()
    assert up.output().count("\n") == 1
    assert "hunter2" not in up.output()
