"""Pruning takes old rows of the audit trail and nothing else, and never without a record of it."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from tests.support.checkout import ROOT
from tests.support.database import connected, execute, fetch_value
from tests.support.ledger import deposit, running_ledger, send
from tests.support.processes import Processes
from tests.support.verification import GUARDED
from wallet.trail import pruning
from wallet.trail.pruning import prune_trail_rows

RECORDS: Final = "select actor, reason, before, row_count, first_id, last_id, pruned_at from trail_prunings"
COVERED: Final = """
select count(*) from operations o
where exists (
    select from trail_prunings p
    where p.bucket = o.bucket and o.api_audit_id between p.first_id and p.last_id and p.row_count > 0
)
"""
PRUNE_ONE: Final = """
insert into trail_prunings (bucket, actor, reason, before, first_id, last_id)
select bucket, 'ann', 'a test', now(), api_audit_id, api_audit_id from api_audit where wallet_id = 'w0'
"""
PRUNE_OF_ONE_WITH_OTHER_VALUES: Final = """
insert into trail_prunings (bucket, actor, reason, before, first_id, last_id, row_count, first_at, last_at,
    pruned_at)
select bucket, 'ann', 'b', $1, '00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff',
    77, now(), now(), now() + interval '1 day'
from api_audit where wallet_id = 'w0' returning row_count, first_id, last_id, pruned_at
"""
ROW_COUNT: Final = "select count(*) from api_audit"
CTRL_C = "\x03"


async def write_rows(database_url: str, count: int) -> None:
    async with running_ledger(database_url) as ledger:
        for number in range(count):
            await send(ledger, deposit(f"w{number}", 1))


async def test_only_rows_before_the_time_go_and_each_slice_leaves_its_record(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "SLICE_ROWS_MAX", 1)
    await write_rows(database_url, 20)
    async with connected(database_url) as connection:
        before = await connection.fetchval("select clock_timestamp()")
        await write_rows(database_url, 5)
        assert await prune_trail_rows(connection, before - timedelta(hours=1), actor="ann", reason="old") == 0
        assert await connection.fetch(RECORDS) == []
        assert await prune_trail_rows(connection, before, actor="ann", reason="duty ended") == 20
        assert await prune_trail_rows(connection, before, actor="ann", reason="again") == 0
        counts = "select count(*) from api_audit union all select count(*) from operations order by 1"
        assert [row[0] for row in await connection.fetch(counts)] == [5, 25]
        records = await connection.fetch(RECORDS)
        assert {(row["actor"], row["reason"], row["before"], row["row_count"]) for row in records} == {
            ("ann", "duty ended", before, 1)
        }
        assert len(records) == 20
        assert await connection.fetchval(COVERED) == 20


@pytest.mark.parametrize(
    "attempt",
    [
        "set wallet.prunes_audit = 'yes'; delete from api_audit",
        "delete from api_audit where wallet_id = 'w0'",
        f"begin; {PRUNE_ONE}; delete from api_audit; commit",
    ],
    ids=["a setting", "nothing", "a record of another row"],
)
async def test_a_deletion_without_its_record_is_refused(database_url: str, attempt: str) -> None:
    await write_rows(database_url, 3)
    with pytest.raises(asyncpg.RestrictViolationError, match="DELETE on api_audit is refused"):
        await execute(database_url, attempt)
    assert await fetch_value(database_url, ROW_COUNT) == 3


@pytest.mark.parametrize("table", GUARDED)
async def test_no_session_variable_switches_the_guards_off(books_url: str, table: str) -> None:
    async with connected(books_url) as connection:
        await connection.execute("set session_replication_role = replica")
        if table != "trail_prunings":  # The books have none.
            with pytest.raises(asyncpg.RestrictViolationError):
                await connection.execute(f"delete from {table}")
        with pytest.raises(asyncpg.RestrictViolationError):
            await connection.execute(f"truncate {table} cascade")


async def test_an_earlier_record_permits_no_later_deletion_and_none_states_what_is_not_so(database_url: str) -> None:
    await write_rows(database_url, 3)
    async with connected(database_url) as connection:
        now = await connection.fetchval("select clock_timestamp()")
        audit_id = await connection.fetchval("select api_audit_id from api_audit where wallet_id = 'w0'")
        row = await connection.fetchrow(PRUNE_OF_ONE_WITH_OTHER_VALUES, now)
        assert row is not None
        assert (row["row_count"], row["first_id"], row["last_id"]) == (1, audit_id, audit_id)
        assert row["pruned_at"] < now + timedelta(minutes=1)
        with pytest.raises(asyncpg.RestrictViolationError):
            await connection.execute("delete from api_audit")
        of_another = PRUNE_OF_ONE_WITH_OTHER_VALUES.replace("'w0'", "'w1'").partition("returning")[0]
        for ahead in (timedelta(days=1), timedelta(days=-365)):  # In the future; and where there is nothing.
            with pytest.raises((asyncpg.CheckViolationError, asyncpg.NotNullViolationError)):
                await connection.execute(of_another, now + ahead)
    assert await fetch_value(database_url, ROW_COUNT) == 2


async def test_the_command_says_what_it_did_and_refuses_what_is_no_past_time(
    database_url: str, processes: Processes
) -> None:
    await write_rows(database_url, 1)
    settings = {"DATABASE_URL": database_url}
    because = ("--reason", "duty ended", "--yes")
    for wrong in ("yesterday", "2026-01-01T00:00:00", (datetime.now(UTC) + timedelta(days=1)).isoformat()):
        refused = processes.start("prune", "--audit-before", wrong, *because, settings=settings)
        assert refused.wait() == 2
        assert wrong in refused.output()
    done = processes.start(
        "prune", "--audit-before", datetime.now(UTC).isoformat(), *because, "--actor", "ann", settings=settings
    )
    assert done.wait() == 0
    assert done.output().startswith("1 rows of the audit trail older than")
    assert "audit_trail_pruned" in done.logs()
    assert '"actor":"ann"' in done.logs().replace(" ", "")
    assert await fetch_value(database_url, ROW_COUNT) == 0
    assert await fetch_value(database_url, "select actor || ': ' || reason from trail_prunings") == "ann: duty ended"


@pytest.mark.parametrize("missing", ["--yes", "--reason"])
async def test_without_a_terminal_it_deletes_nothing_unless_it_is_confirmed_and_has_a_reason(
    database_url: str, processes: Processes, missing: str
) -> None:
    await write_rows(database_url, 1)
    given = {"--yes": ["--yes"], "--reason": ["--reason", "duty ended"]}
    arguments = [text for name, texts in given.items() if name != missing for text in texts]
    now = datetime.now(UTC).isoformat()
    refused = processes.start(
        "prune", "--audit-before", now, *arguments, settings={"DATABASE_URL": database_url, "COLUMNS": "200"}
    )
    assert refused.wait() == 2
    assert missing in refused.output()
    assert await fetch_value(database_url, ROW_COUNT) == 1


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 2, 1), ("\x04", 2, 1), (CTRL_C, 130, 1), ("y\n", 0, 0)])
async def test_on_a_terminal_it_asks(database_url: str, tmp_path: Path, answer: str, code: int, left: int) -> None:
    await write_rows(database_url, 1)
    assert "can't be undone" in await asyncio.to_thread(prune_on_a_terminal, database_url, tmp_path, answer, code)
    assert await fetch_value(database_url, ROW_COUNT) == left


def prune_on_a_terminal(database_url: str, directory: Path, answer: str, code: int) -> str:
    """Give this answer to the question, expect this exit code, and return what was shown."""
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), "DATABASE_URL": database_url}
    arguments = ["prune", "--audit-before", datetime.now(UTC).isoformat(), "--reason", "duty ended"]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "wallet", *arguments],
        env=environment | {"LOG_DIR": str(directory)},
        cwd=directory,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        shown = ""
        while "[y/N]" not in shown:
            shown += os.read(ours, 10_000).decode()
        if answer == CTRL_C:
            # This terminal controls no session, so it makes no signal of the key.
            process.send_signal(signal.SIGINT)
        else:
            os.write(ours, answer.encode())
        assert process.wait(30) == code
    os.close(ours)
    os.close(theirs)
    return shown


def test_without_a_database_it_says_so(processes: Processes, tmp_path: Path) -> None:
    arguments = ["--audit-before", "2026-01-01T00:00:00Z", "--reason", "old", "--yes"]
    lost = processes.start("prune", *arguments, "--data", str(tmp_path / "none"), settings={})
    assert lost.wait() == 2
    assert "No database is named" in lost.output()
