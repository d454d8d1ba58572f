"""Pruning takes old audit rows and nothing else."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from tests.support.books import fetch_value
from tests.support.ledger import deposit, running_ledger, send
from tests.support.processes import Processes
from wallet.ledger.pruning import prune_audit_rows


async def test_only_rows_before_the_time_go(database_url: str) -> None:
    async with running_ledger(database_url) as ledger:
        for number in range(20):
            await send(ledger, deposit(f"w{number}", 1))
        connection = await asyncpg.connect(database_url)
        before = await connection.fetchval("select clock_timestamp()")
        for number in range(5):
            await send(ledger, deposit(f"w{number}", 1))
    assert await prune_audit_rows(connection, before - timedelta(hours=1)) == 0
    assert await prune_audit_rows(connection, before) == 20
    assert await prune_audit_rows(connection, before) == 0
    counts = "select count(*) from api_audit union all select count(*) from operations order by 1"
    assert [row[0] for row in await connection.fetch(counts)] == [5, 25]
    await connection.close()


async def test_the_command_says_what_it_did_and_refuses_what_is_no_past_time(
    database_url: str, processes: Processes
) -> None:
    async with running_ledger(database_url) as ledger:
        await send(ledger, deposit("alice", 1))
    settings = {"DATABASE_URL": database_url}
    for wrong in ("yesterday", "2026-01-01T00:00:00", (datetime.now(UTC) + timedelta(days=1)).isoformat()):
        refused = processes.start("prune", "--audit-before", wrong, settings=settings)
        assert refused.wait() == 1
        assert wrong in refused.output()
    done = processes.start("prune", "--audit-before", datetime.now(UTC).isoformat(), settings=settings)
    assert done.wait() == 0
    assert done.output().startswith("1 audit rows older than")
    assert await fetch_value(database_url, "select count(*) from api_audit") == 0


def test_without_a_database_it_says_so(processes: Processes, tmp_path: Path) -> None:
    lost = processes.start(
        "prune", "--audit-before", "2026-01-01T00:00:00Z", "--data", str(tmp_path / "none"), settings={}
    )
    assert lost.wait() == 2
    assert "No database is named" in lost.output()
