"""What a command's exit code says where something fails, on a real database that fails in that way."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.commands import environment_of, run_in
from tests.support.database import execute
from tests.support.ledger import deposit, running_ledger, send
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.processes import Processes
from tests.support.written_books import seal_all


async def test_damage_is_a_failed_check_and_names_what_was_not_proved(
    own_postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = own_postgres_server.create_database()
    async with running_ledger(url) as ledger:
        await send(ledger, deposit("alice", "5.0000"))
    await seal_all(url)
    own_postgres_server.damage(url, "operations")
    code, out, said = run_in(tmp_path, "verify", "--json", DATABASE_URL=url)
    report = json.loads(out)
    readable = next(check for check in report["checks"] if check["title"] == "readable")
    assert (code, said, report["isClean"]) == (1, "", False)
    assert "invalid page" in readable["firstFault"]["row"]
    assert "once" in report["unproved"]
    code, out, said = run_in(tmp_path, "verify", DATABASE_URL=url)
    assert (code, said) == (1, "")
    assert "broken: I9 readable" in out
    assert "not proved, as reading ended before" in out
    # A command that does not check says what happened, and not that the database can't be reached.
    own_postgres_server.damage(url, "events")
    code, _, said = run_in(tmp_path, "rebuild", DATABASE_URL=url)
    assert code == 1
    assert said.startswith("wallet: The database's files are damaged: invalid page")


SPOILT_SCHEMA = {
    "verify": "alter table events rename column amount to amounts",
    "rebuild": "drop table wallet_stats",
    "dlq list": "drop table dead_letters",
}


@pytest.mark.parametrize("command", SPOILT_SCHEMA)
async def test_a_schema_that_somebody_changed_is_a_failure(command: str, database_url: str, tmp_path: Path) -> None:
    await execute(database_url, SPOILT_SCHEMA[command])
    code, _, said = run_in(tmp_path, *command.split(), DATABASE_URL=database_url)
    assert code == 1, said
    assert said.startswith("wallet: The database reports an error: ")
    assert "can't be reached" not in said


async def test_a_login_that_is_refused_is_a_wrong_call(database_url: str, tmp_path: Path) -> None:
    address = urlsplit(database_url)
    wrong_password = address._replace(netloc=f"wallet:hunter2@{address.hostname}:{address.port}").geturl()
    no_database = address._replace(path="/nothing").geturl()
    await execute(database_url, "create role guest login password 'guest'")
    no_privilege = address._replace(netloc=f"guest:guest@{address.hostname}:{address.port}").geturl()
    try:
        for url in (wrong_password, no_database, no_privilege):
            code, _, said = run_in(tmp_path, "verify", DATABASE_URL=url)
            assert code == 2, said
            assert said.startswith("wallet: The database refuses the login: ")
            assert "hunter2" not in said
    finally:
        await execute(database_url, "drop role guest")


def test_output_that_cannot_be_written_is_a_failure(database_url: str, tmp_path: Path) -> None:
    for arguments in (["dlq", "list", "--json"], ["verify"], ["verify", "--json"]):
        with Path("/dev/full").open("w") as full:
            ended = subprocess.run(
                [sys.executable, "-P", "-m", "wallet", *arguments],
                env=environment_of(tmp_path, DATABASE_URL=database_url),
                cwd=tmp_path,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
        assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
        assert "The output can't be written: No space left on device" in ended.stderr


@pytest.mark.parametrize(
    "arguments", [["contracts", "/proc/x"], ["bench", "--only", "none"], ["chaos", "--only", "99"]]
)
def test_a_wrong_argument_is_a_wrong_call(arguments: list[str], tmp_path: Path) -> None:
    code, _, said = run_in(tmp_path, *arguments)
    assert code == 2, said
    assert "Traceback" not in said


def test_an_admin_port_that_up_cannot_have_is_a_wrong_setting(processes: Processes, database_url: str) -> None:
    port = free_port()
    for admin_port in (port - 1, 65535):
        holder = processes.start_api(PORT=str(port), DATABASE_URL=database_url) if admin_port < port else None
        up = processes.start(
            "up", "--port", str(free_port()), settings={"DATABASE_URL": database_url, "ADMIN_PORT": str(admin_port)}
        )
        assert up.wait(60) == 2, up.output()
        assert "ADMIN_PORT" in up.output()
        if holder is not None:
            assert holder.stop() == 0
