"""`wallet postgres`: PostgreSQL's programs get the database's address in a way that other users cannot read."""

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.postgres import PostgresServer
from tests.support.processes import Processes, WalletProcess

Ended = Callable[..., tuple[int, str]]


@pytest.fixture
def ended(processes: Processes) -> Ended:
    """Runs the command to its end; returns its exit code and what it printed."""

    def run(*arguments: str, **settings: str) -> tuple[int, str]:
        process: WalletProcess = processes.start("postgres", *arguments, settings=settings)
        return process.wait(), process.output()

    return run


def test_a_program_speaks_to_the_database_and_its_options_are_its_own(ended: Ended, database_url: str) -> None:
    database = database_url.rpartition("/")[2]
    query = "select current_database(), count(*) from wallets"
    assert ended("psql", "-Atc", query, DATABASE_URL=database_url) == (0, f"{database}|0\n")
    assert ended("psql", "--help", DATABASE_URL=database_url)[1].startswith("psql is the PostgreSQL interactive")


def test_its_exit_code_is_the_programs(ended: Ended, database_url: str) -> None:
    assert ended("psql", "-c", "select", "nonesuch", DATABASE_URL=database_url)[0] == 2
    assert ended("psql", "-v", "ON_ERROR_STOP=1", "-f", "/nonesuch", DATABASE_URL=database_url)[0] == 1


def test_the_password_stands_in_no_list_of_processes(processes: Processes, database_url: str) -> None:
    settings = {"DATABASE_URL": database_url}
    asleep = processes.start("postgres", "psql", "-c", "select pg_sleep(60)", settings=settings)
    processes.wait_until(asleep, lambda: psutil.Process(asleep.pid).cmdline()[:1] == ["psql"])
    assert psutil.Process(asleep.pid).cmdline() == ["psql", "-c", "select pg_sleep(60)"]
    asleep.kill()


def test_another_database_of_a_running_up_is_chosen_by_its_name(
    ended: Ended, own_postgres_server: PostgresServer
) -> None:
    data = f"--data={own_postgres_server.directory}"
    assert ended(data, "createdb", DB_NAME="another")[0] == 0
    assert ended(data, "psql", "-Atc", "select current_database()", DB_NAME="another") == (0, "another\n")
    assert ended(data, "psql", "-Atc", "select current_database()") == (0, "wallet\n")


def test_what_is_not_there_is_one_clear_line(ended: Ended, tmp_path: Path) -> None:
    exit_code, said = ended("nonesuch", DATABASE_URL="postgresql://localhost/wallet")
    assert (exit_code, said.startswith("wallet: 'nonesuch' is no program of PostgreSQL that is here")) == (2, True)
    exit_code, said = ended("psql", f"--data={tmp_path}")
    assert (exit_code, said.startswith("wallet: No database is named, and no `wallet up` runs on data/")) == (2, True)
