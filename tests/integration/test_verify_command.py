"""`wallet verify` and `wallet rebuild` as their user meets them: what they print, and the exit code."""

from pathlib import Path

import pytest

from tests.support.database import fetch_value
from tests.support.postgres import PostgresServer, run_apart
from tests.support.verification import as_owner
from wallet.cli.commands.rebuild import rebuild_on_screen
from wallet.cli.commands.verify import verify_on_screen
from wallet.integrity.findings import Check
from wallet.postgres.embedded import running_dsn


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory without settings or data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("DB_HOST", raising=False)
    return tmp_path


async def change(database_url: str, statement: str) -> None:
    async with as_owner(database_url) as connection:
        await connection.execute(statement)


def test_clean_books_give_a_line_for_each_check_and_exit_code_0(
    books_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", books_url)
    assert verify_on_screen(Path("data"), None) == 0
    lines = capsys.readouterr().out.splitlines()
    kept = [line for line in lines if line.startswith("✓")]
    proved = [check for check in Check if any(f" {check.title} " in line for line in kept)]
    assert proved == [check for check in Check if check is not Check.HEADS]
    assert any("none given (--heads), so a cut tail can't be seen" in line for line in lines)
    assert lines[-1].startswith("clean: every promise holds, as of 20")


def test_on_a_terminal_there_is_a_table_and_the_same_verdict(
    books_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", books_url)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    assert verify_on_screen(Path("data"), None) == 0
    shown = capsys.readouterr().out
    assert "compared with" in shown
    assert "127 events" in shown
    assert "clean: every promise holds" in shown


def test_a_fault_names_its_row_what_was_expected_and_what_was_found_and_gives_exit_code_1(
    books_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_apart(change(books_url, "update events set balance_after = 700 where wallet_id = 'alice' and version = 3"))
    monkeypatch.setenv("DATABASE_URL", books_url)
    assert verify_on_screen(Path("data"), None) == 1
    shown = capsys.readouterr().out
    assert (
        "✗ I3 versions: 2 faults, the first:\n"
        "    where     events: wallet alice, version 3\n"
        "    expected  balance_after 70.0000 (100.0000 − 30.0000, as FundsWithdrawn has it)\n"
        "    found     balance_after 700.0000\n"
    ) in shown
    assert shown.splitlines()[-1].startswith("broken: I3 versions, I5 once, I9 batches, I9 payloads; as of")


def test_what_only_the_worker_got_wrong_can_be_rebuilt_and_it_says_so(
    books_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_apart(change(books_url, "delete from wallet_stats where wallet_id = 'alice'"))
    monkeypatch.setenv("DATABASE_URL", books_url)
    assert verify_on_screen(Path("data"), None) == 1
    assert "`wallet rebuild` recreates statistics and alerts" in capsys.readouterr().out
    assert rebuild_on_screen(Path("data")) == 0
    assert (
        "rebuilt 7 wallets' statistics and 2 fraud alerts from 127 events, 2 of them not processed before"
        in capsys.readouterr().out
    )
    assert verify_on_screen(Path("data"), None) == 0


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that says why nothing was done."""
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("command", ["verify", "rebuild"])
def test_without_a_database_nothing_is_done_and_one_line_says_why(
    command: str, empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> int:
        return verify_on_screen(Path("data"), None) if command == "verify" else rebuild_on_screen(Path("data"))

    assert run() == 2
    assert "No database is named, and no `wallet up` runs on data/" in refusal(capsys)
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    assert run() == 2
    assert "run `wallet migrate`" in refusal(capsys)
    monkeypatch.setenv("DATABASE_URL", "postgresql://wallet:wallet@127.0.0.1:1/wallet")
    assert run() == 3
    assert "refused" in refusal(capsys)
    monkeypatch.setenv("DATABASE_URL", "nonsense://")
    assert run() == 2
    assert "DATABASE_URL" in refusal(capsys)


def test_heads_that_cannot_be_read_are_said_at_once(
    books_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", books_url)
    assert verify_on_screen(Path("data"), Path("missing.log")) == 2
    shown = capsys.readouterr()
    assert "missing.log" in shown.err
    assert shown.out == ""


async def test_the_server_of_a_running_wallet_up_is_found_by_its_data(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    dsn = running_dsn(postgres_server.directory)
    assert dsn is not None
    assert await fetch_value(dsn, "select current_database()") == "wallet"
    assert running_dsn(tmp_path) is None
