"""Verify beside a system at work: no false alarm, and nobody waits for it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.database import connected, execute, fetch_rows
from tests.support.ledger import deposit, running_ledger, send, transfer, withdraw
from tests.support.live_load import load_on
from tests.support.relay import relay_settings, running_relay
from tests.support.verification import faults_of, proof_of
from tests.support.waiting import eventually
from tests.support.worker import running_worker, until
from tests.support.written_books import LAST_POSITION
from wallet.integrity import snapshot as snapshot_module
from wallet.integrity.checks import journal as journal_module
from wallet.integrity.findings import Check
from wallet.integrity.snapshot import ALL_BUCKETS, SQL, open_snapshot, snapshot_on
from wallet.integrity.verify import Proof
from wallet.postgres.connections import connect
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.postgres.session import NotMigrated
from wallet.relay.seal import FILENAME, export_head


async def test_a_system_at_work_gives_no_false_alarm(
    database_url: str, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "BATCHES_READ", 7)
    monkeypatch.setattr(snapshot_module, "ROWS_FETCHED", 100)
    heads = tmp_path / FILENAME
    heads.touch()
    proofs: list[Proof] = []
    async with (
        running_ledger(database_url) as whole,
        running_ledger(database_url, is_stepwise=True) as stepwise,
        running_relay(relay_settings(database_url, None, tmp_path)),
        running_worker(database_url, None),
        exporting_heads(database_url, tmp_path),
        load_on(whole, stepwise, seed=seed),
    ):
        while len(proofs) < 8:
            # Only a proof that begins among new writes tries anything; a busy machine is slow to make the first.
            await until(has_more_events, database_url, checked_count(proofs[-1], Check.VERSIONS) if proofs else 0)
            proofs.append(await proof_of(database_url, heads))
    found = [(finding.check, finding.first) for proof in proofs for finding in proof.findings if finding.fault_count]
    assert found == []
    counts = [checked_count(proof, Check.VERSIONS) for proof in proofs]
    assert counts == sorted(set(counts)), "nothing was written meanwhile"
    for check in (Check.TRANSFERS, Check.HEADS, Check.PROJECTIONS, Check.POSITIONS):
        assert checked_count(proofs[-1], check) > 0
    assert (await proof_of(database_url, heads)).is_clean


async def has_more_events(database_url: str, count: int) -> bool:
    return bool(await fetch_rows(database_url, "select from events offset $1 limit 1", count))


@asynccontextmanager
async def exporting_heads(database_url: str, log_dir: Path) -> AsyncIterator[None]:
    """The relay's export, far more often than once a minute."""
    stop = asyncio.Event()

    async def export() -> None:
        async with connected(database_url) as connection:
            while not stop.is_set():
                await export_head(connection, log_dir)

    exporting = asyncio.create_task(export())
    try:
        yield
    finally:
        stop.set()
        await exporting


def checked_count(proof: Proof, check: Check) -> int:
    return next(finding.checked_count for finding in proof.findings if finding.check is check)


def warnings_of(proof: Proof) -> list[str]:
    return [warning for finding in proof.findings for warning in finding.warnings]


async def test_writers_go_on_while_the_snapshot_is_open_and_it_does_not_see_them(books_url: str) -> None:
    async with open_snapshot(books_url) as snapshot, running_ledger(books_url, deadline_seconds=3) as ledger:
        first = await snapshot.rows(SQL.histories, *ALL_BUCKETS)
        answers = [
            await send(ledger, command)
            for command in (deposit("alice", 5), withdraw("dora", 5), transfer("alice", "bob", 5), deposit("new", 1))
        ]
        assert {answer.status for answer in answers} == {201}
        async with connected(books_url) as connection:
            await connection.execute("set lock_timeout = '1s'; update wallet_stats set total_withdrawn = 0")
            assert await connection.fetchval("select count(*) from events") == len(first) + 8
        assert len(await snapshot.rows(SQL.histories, *ALL_BUCKETS)) == len(first)


async def test_batches_that_wait_for_the_relay_are_reported_but_are_no_fault(books_url: str) -> None:
    async with connected(books_url) as connection:
        await connection.execute(
            "alter table journal disable trigger all;"
            "update journal set published_at = null, sealed_at = now() - interval '6 minutes' where position > 100"
        )
        [unsealed, *_] = await connection.fetch("select batch_id from journal where position is null order by seq")
        old = uuid7_at(datetime.now(UTC) - timedelta(minutes=6))
        for table in ("journal", "events", "operations"):
            await connection.execute(f"alter table {table} disable trigger all")
            await connection.execute(f"update {table} set batch_id = $1 where batch_id = $2", old, unsealed["batch_id"])
    proof = await proof_of(books_url)
    assert proof.is_clean
    unsealed_warning, unpublished_warning = warnings_of(proof)
    assert unsealed_warning == "1 batch waited for more than 5 minutes to be sealed: is a relay running?"
    assert f"{LAST_POSITION - 100} batches waited for more than 5 minutes to be published" in unpublished_warning
    assert "the first at position 101" in unpublished_warning


def uuid7_at(time: datetime) -> UUID:
    return UUID(int=int(time.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62)


async def test_events_that_wait_for_the_worker_are_reported_but_are_no_fault(books_url: str) -> None:
    async with connected(books_url) as connection:
        await connection.execute(
            "alter table journal disable trigger all;"
            "update journal set published_at = now() - interval '6 minutes' where position is not null;"
            "delete from processed_events; delete from wallet_stats; delete from fraud_alerts"
        )
        events = await connection.fetchval(
            "select count(*) from events join journal using (batch_id) where position > 0"
        )
    proof = await proof_of(books_url)
    assert proof.is_clean
    [warning] = warnings_of(proof)
    assert warning.startswith(f"{events} events published more than 60 s ago had no effect yet")
    assert "version 1 of wallet alice" in warning


async def test_a_transfer_under_way_is_no_fault_until_it_is_stuck(books_url: str) -> None:
    await execute(
        books_url,
        """alter table transfers disable trigger all; alter table operations disable trigger all;
            alter table events disable trigger all; alter table journal disable trigger all;
            alter table api_audit disable trigger all; update api_audit set status = null where request_id = 't2';
            update transfers set status = 'debited', updated_at = now() - interval '30 seconds' where request_id = 't2';
            update operations set state = 'pending', success = null, status = null, response = null,
                batch_id = (select batch_id from journal where position = 9) where request_id = 't2';
            delete from events where wallet_id = 'alice' and version = 9;
            update wallets set version = 8, last_event_at = (
                select occurred_at from events where wallet_id = 'alice' and version = 8) where wallet_id = 'alice'""",
    )
    faults = await faults_of(books_url)
    assert Check.TRANSFERS not in faults
    assert Check.BALANCES not in faults
    assert Check.CONSERVATION not in faults


async def test_a_database_without_our_tables_is_not_proved(empty_database_url: str) -> None:
    with pytest.raises(NotMigrated, match="run `wallet migrate`"):
        await proof_of(empty_database_url)


async def test_a_proof_whose_process_was_killed_ends_on_the_server_too(database_url: str) -> None:
    connection = await connect(database_url, application_name="killed", statement_seconds=60)
    async with connected(database_url) as observer:
        running = "select count(*) from pg_stat_activity where application_name = 'killed' and state = 'active'"

        async def sleep_in_a_snapshot() -> None:
            with suppress(*DATABASE_ERRORS):
                async with snapshot_on(connection) as snapshot:
                    await snapshot.rows("select pg_sleep(60)")

        sleeping = asyncio.create_task(sleep_in_a_snapshot())
        await eventually(lambda: observer.fetchval(running))
        connection.terminate()
        await sleeping
        await eventually(lambda: is_zero(observer.fetchval(running)))


async def is_zero(counting: Awaitable[int]) -> bool:
    return await counting == 0
