"""The command line as its users meet it: help, version, exit codes, JSON, and how commands find a running `up`."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import typer.main

from tests.support.client import deposit_once, total_deposited
from tests.support.commands import run_in
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.processes import Processes, WalletProcess
from tests.support.waiting import eventually_blocking
from wallet.cli.main import app
from wallet.runtime.settings import Settings

COMMANDS = [
    "up", "api", "relay", "worker", "migrate", "openapi", "contracts", "monkey", "bench", "chaos", "verify", "rebuild",
    "prune", "postgres", "dlq", "dlq list", "dlq show", "dlq replay", "dlq discard",
    "key", "key create", "key list", "key revoke", "key rotate",
]  # fmt: skip
REPORTING = [
    "verify", "rebuild", "dlq list", "dlq show 1", "dlq replay 1", "dlq discard 1 --reason x",
    "prune --audit-before 2026-01-01T00:00:00Z --reason old --yes", "migrate --wait 0",
    "key create --name x --scope read", "key list", "key revoke x", "key rotate x",
]  # fmt: skip
Call = Callable[..., tuple[int, str, str]]
RECORDS = Path(".local", "state", "wallet", "up")


def run(processes: Processes, *arguments: str, **settings: str) -> WalletProcess:
    """Run a command to its end."""
    process = processes.start(*arguments, settings=settings)
    process.wait(within=60)
    return process


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in this process, in a directory without settings: its exit code, stdout and stderr."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run_here(*arguments: str, **settings: str) -> tuple[int, str, str]:
        with monkeypatch.context() as environment:
            for name, value in settings.items():
                environment.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                app(arguments, prog_name="wallet")
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return run_here


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_names_the_program_and_shows_no_ranges(
    option: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        app([*command.split(), option], prog_name="wallet")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert ended.value.code == 0
    assert f"Usage: wallet {command}" in shown
    assert "<=" not in shown
    assert ">=" not in shown


def test_every_command_is_in_the_list_above() -> None:
    group = typer.main.get_command(app)
    names = {name for name, command in group.commands.items() if not command.hidden}  # type: ignore[attr-defined]
    assert names == {command.split()[0] for command in COMMANDS}


def test_the_version_is_printed(tmp_path: Path) -> None:
    assert run_in(tmp_path, "--version") == (0, "wallet 0.2.0\n", "")


def test_a_wrong_call_is_2_and_names_the_command_as_it_is_called(call: Call) -> None:
    code, _, said = call("verify", "--nonsense")
    assert (code, "Usage: wallet verify" in said) == (2, True)
    code, _, said = call("up", "--port", "70000")
    assert (code, "65,535" in said) == (2, True)


def test_a_shell_completes_commands_and_options(tmp_path: Path) -> None:
    for words, found in (("wallet ver", "verify"), ("wallet dlq re", "replay"), ("wallet up --wor", "--workers")):
        asking = {"_WALLET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        assert run_in(tmp_path, **asking)[1].split() == [found]


@pytest.mark.parametrize("command", ["up", "verify"])
@pytest.mark.parametrize("way", ["-O", "-OO", "PYTHONOPTIMIZE"])
def test_without_its_assertions_nothing_runs(way: str, command: str, tmp_path: Path) -> None:
    if way == "PYTHONOPTIMIZE":
        code, out, said = run_in(tmp_path, command, PYTHONOPTIMIZE="1")
    else:
        code, out, said = run_in(tmp_path, command, python=[way])
    assert (code, out, said.count("\n")) == (2, "", 1)
    assert "PYTHONOPTIMIZE" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", REPORTING)
def test_the_same_fault_has_the_same_exit_code_everywhere(command: str, call: Call) -> None:
    away = {"DATABASE_URL": f"postgresql://u:hunter2@127.0.0.1:{free_port()}/x"}
    for settings, code in ((away, 3), ({}, 2), ({"DATABASE_URL": "nonsense://"}, 2), (away | {"LOG_LEVEL": "x"}, 2)):
        found, _, said = call(*command.split(), **settings)
        assert found == code, said
        assert said.count("wallet: ") == 1, said
        assert "hunter2" not in said


@pytest.mark.parametrize("command", ["api", "relay", "worker"])
def test_a_process_without_a_database_is_a_wrong_call(command: str, call: Call) -> None:
    code, _, said = call(command)
    assert code == 2
    assert "set DATABASE_URL or DB_HOST" in said


def test_reports_are_json_on_request(call: Call, database_url: str) -> None:
    def report(*arguments: str) -> dict[str, object]:
        code, out, said = call(*arguments, "--json", DATABASE_URL=database_url)
        assert (code, said) == (0, "")
        return dict(json.loads(out))

    assert report("migrate") == {"applied": []}
    assert report("verify")["isClean"] is True
    assert report("rebuild")["eventCount"] == 0
    assert report("dlq", "list") == {"letters": [], "notShown": 0}
    assert report("dlq", "replay", "--all") == {"letters": [], "notTried": 0}
    pruning = ("prune", "--audit-before", "2026-01-01T00:00:00+00:00", "--reason", "old", "--yes")
    assert report(*pruning) == {"auditBefore": "2026-01-01T00:00:00+00:00", "deleted": 0}


def test_verify_prints_its_checks_in_order(call: Call, database_url: str) -> None:
    lines = call("verify", DATABASE_URL=database_url)[1].splitlines()
    numbers = [int(line.split()[1].removeprefix("I")) for line in lines if line.startswith("✓")]
    assert len(numbers) > 5
    assert numbers == sorted(numbers)


def test_migrate_waits_for_its_database_and_reports_it(
    processes: Processes, own_postgres_server: PostgresServer
) -> None:
    url = own_postgres_server.create_database(migrated=False)
    own_postgres_server.stop()
    migrating = processes.start("migrate", settings={"DATABASE_URL": url})
    processes.wait_until(migrating, lambda: "waiting 60 s for it" in migrating.output())
    own_postgres_server.start()
    assert migrating.wait(60) == 0
    assert "applied 0001_ledger" in migrating.output()
    own_postgres_server.stop()
    assert run(processes, "migrate", "--wait", "0.2", DATABASE_URL=url).exit_code == 3


def test_commands_find_a_running_up_without_options(processes: Processes, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path / "home")}
    up = processes.start_up("--data", str(tmp_path / "elsewhere"), **home)
    deposit_once(up.url)
    (record,) = (tmp_path / "home" / RECORDS).glob("*.json")
    assert record.stat().st_mode & 0o777 == 0o600
    eventually_blocking(lambda: total_deposited(up.url) == "5.0000")
    for command, said in (
        (["verify"], "clean: every promise holds"),
        (["dlq", "list"], "no open dead letters"),
        (["rebuild"], "rebuilt 1 wallets' statistics"),
        (["migrate"], "nothing to apply"),
        (["key", "list"], "There is no key"),
        (["postgres", "psql", "--no-align", "--tuples-only", "--command=select balance from wallets"], "5.0000"),
        (
            ["prune", "--audit-before", "2026-01-01T00:00:00Z", "--reason", "old", "--yes"],
            "0 rows of the audit trail older",
        ),
        (["monkey", "--requests", "50"], f"monkey → {up.url}"),
    ):
        found = run(processes, *command, **home)
        assert found.exit_code == 0, found.output()
        assert said in found.output()
    away = {"DATABASE_URL": f"postgresql://u:p@127.0.0.1:{free_port()}/x"}
    assert run(processes, "verify", **home, **away).exit_code == 3, "the environment comes first"
    assert up.stop() == 0
    assert not record.exists()
    assert run(processes, "verify", **home).exit_code == 2


def test_the_record_of_a_killed_up_is_not_believed(processes: Processes, database_url: str, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path / "home")}
    up = processes.start_up(DATABASE_URL=database_url, **home)
    (record,) = (tmp_path / "home" / RECORDS).glob("*.json")
    assert run(processes, "verify", **home).exit_code == 0
    psutil.Process(up.pid).send_signal(signal.SIGKILL)
    up.wait()
    assert record.exists()
    assert run(processes, "verify", **home).exit_code == 2
    assert not record.exists()


def test_of_several_ups_the_one_of_this_directory_is_found_and_else_they_are_named(
    processes: Processes, database_url: str, tmp_path: Path
) -> None:
    home = {"HOME": str(tmp_path / "home")}
    ups = [processes.start_up(DATABASE_URL=database_url, **home) for _ in range(2)]
    for command in ("verify", "monkey"):
        lost = run(processes, command, **home)
        assert lost.exit_code == 2
        assert all(up.url in lost.output() for up in ups)
    assert run_in(ups[0].directory, "verify", **home)[0] == 0


def test_what_is_unusual_at_a_start_is_one_line_each_on_stderr_and_in_the_log(
    processes: Processes, database_url: str
) -> None:
    settings = {"DATABASE_URL": database_url, "AUTH": "off", "WALLET_FAILPOINTS": "saga.after_debit=raise@999"}
    up = processes.start_up("--host", "0.0.0.0", **settings)
    for text in ("WALLET_FAILPOINTS is set (saga.after_debit=raise@999)", "listening on 0.0.0.0 with AUTH=off: anyone"):
        assert up.output().count(text) == 1
    assert up.stop() == 0
    # Events reach the file a moment after they are logged, and all of them before the process ends.
    log = (up.directory / "logs" / "api.log").read_text()
    assert log.count('"event":"failpoints_set"') == 1
    assert log.count('"event":"listens_beyond_loopback"') == 1
    api = processes.start_api(DATABASE_URL=database_url)
    assert "listens_beyond_loopback" not in api.output() + api.logs()
    assert api.stop() == 0


def test_an_unknown_setting_in_the_file_is_reported(database_url: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"DATABASE_URL={database_url}\nLOG_LEVLE=debug\n")
    code, out, said = run_in(tmp_path, "verify", "--json")
    assert (code, json.loads(out)["isClean"]) == (0, True)
    assert said == (
        "wallet: warning: .env, line 2: there is no setting LOG_LEVLE, so it is ignored; did you mean LOG_LEVEL?\n"
    )
