"""A rebuild gives the rows that the worker gave, whatever became of them, and a live worker counts nothing twice."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.books import assert_pipeline_is_quiet_and_right
from tests.support.database import connected, execute, fetch_rows
from tests.support.event_log import Log
from tests.support.ledger import deposit, running_ledger, send
from tests.support.live_load import load_on
from tests.support.relay import relay_settings, running_relay
from tests.support.verification import faults_of
from tests.support.worker import RULES, Wire, has_logged, projections_match, until
from tests.support.written_books import process_all, seal_all
from wallet.postgres.session import NotMigrated
from wallet.postgres.statements import load_statements
from wallet.rabbitmq.publisher import OutgoingMessage
from wallet.runtime.failpoints import configure_failpoints
from wallet.worker.handle import handle_group
from wallet.worker.messages import check_messages
from wallet.worker.rebuild import Rebuilt, UnknownEvents, rebuild

STATS = """
select bucket, wallet_id, total_deposited, total_withdrawn, total_transferred_out, total_transferred_in,
    last_activity_at, suspicious, suspicious_reason
from wallet_stats order by bucket, wallet_id
"""
ALERTS = """
select bucket, wallet_id, rule, event_id, reason, occurred_at
from fraud_alerts order by bucket, wallet_id, rule, event_id
"""


@pytest.fixture(autouse=True)
def no_failpoints() -> Iterator[None]:
    """Switches off what a test switched on."""
    yield
    configure_failpoints("")


@pytest.fixture(params=["rabbitmq", "journal"])
def wire(request: pytest.FixtureRequest, database_url: str) -> Wire:
    """Each of the two transports in turn."""
    has_broker = request.param == "rabbitmq"
    return Wire(database_url, request.getfixturevalue("rabbitmq_url") if has_broker else None)


async def rows_of(database_url: str) -> tuple[list[Any], list[Any]]:
    return await fetch_rows(database_url, STATS), await fetch_rows(database_url, ALERTS)


async def inbox_of(database_url: str) -> list[tuple[Any, ...]]:
    query = "select bucket, event_id, status, attempts, processed_at from processed_events"
    return sorted(tuple(row) for row in await fetch_rows(database_url, query))


async def test_a_rebuild_gives_the_rows_that_the_worker_gave_and_so_does_the_next_one(books_url: str) -> None:
    await seal_all(books_url)
    await process_all(books_url)
    stats, alerts = await rows_of(books_url)
    assert len(stats) == 7
    assert [(row[1], row[2]) for row in alerts] == [("dora", "large_withdrawal"), ("dora", "rapid_withdrawals")]
    inbox = await inbox_of(books_url)
    for _ in range(2):
        rebuilt = await rebuild(books_url, RULES)
        assert (rebuilt.wallet_count, rebuilt.alert_count, rebuilt.event_count) == (7, 2, len(inbox))
        assert rebuilt.entered_count == 0
        assert await rows_of(books_url) == (stats, alerts)
    assert await inbox_of(books_url) == inbox


async def test_a_rebuild_keeps_when_a_row_was_created_and_when_its_totals_changed(books_url: str) -> None:
    await seal_all(books_url)
    await process_all(books_url)
    times = "select wallet_id, created_at, updated_at from wallet_stats order by wallet_id"
    before = await fetch_rows(books_url, times)
    assert all(created_at is not None for _, created_at, _ in before)
    await rebuild(books_url, RULES)
    assert await fetch_rows(books_url, times) == before
    await execute(books_url, "update wallet_stats set total_deposited = 1 where wallet_id = 'alice'")
    await rebuild(books_url, RULES)
    after = await fetch_rows(books_url, times)
    assert [row[:2] for row in after] == [row[:2] for row in before]
    assert [new[0] for new, old in zip(after, before, strict=True) if new[2] > old[2]] == ["alice"]


SPOILING = {
    "deleted": "delete from wallet_stats; delete from fraud_alerts",
    "garbled": """
        update wallet_stats set total_deposited = 1, total_transferred_in = 2, last_activity_at = now(),
            suspicious = true, suspicious_reason = 'none';
        update fraud_alerts set reason = 'none', occurred_at = now()""",
    "invented": """
        insert into wallet_stats (bucket, wallet_id, total_deposited) values (1, 'nobody', 5);
        insert into fraud_alerts values (1, 'nobody', 'large_withdrawal', gen_random_uuid(), 'none', now())""",
}


@pytest.mark.parametrize("spoiling", SPOILING.values(), ids=SPOILING.keys())
async def test_a_rebuild_restores_what_was_spoilt(books_url: str, spoiling: str) -> None:
    await seal_all(books_url)
    await process_all(books_url)
    before = await rows_of(books_url)
    await execute(books_url, spoiling)
    assert await rows_of(books_url) != before
    await rebuild(books_url, RULES)
    assert await rows_of(books_url) == before
    assert await faults_of(books_url) == {}


async def test_events_that_no_worker_has_had_are_in_and_come_to_nothing_when_they_come(books_url: str) -> None:
    await execute(books_url, "delete from processed_events; delete from wallet_stats; delete from fraud_alerts")
    await execute(books_url, "update worker_checkpoint set position = 0")
    rebuilt = await rebuild(books_url, RULES)
    assert rebuilt.entered_count == rebuilt.event_count
    rows = await rows_of(books_url)
    assert ("frank", Decimal(1)) in [(row[1], row[2]) for row in rows[0]], "not sealed yet, but in the log"
    await seal_all(books_url)
    async with connected(books_url) as connection, Wire(books_url, None).worker():

        async def has_read_everything() -> bool:
            query = "select position = (select max(position) from journal) from worker_checkpoint"
            return bool(await connection.fetchval(query))

        await until(has_read_everything)
    assert await rows_of(books_url) == rows
    assert await faults_of(books_url) == {}


async def test_the_rules_are_those_of_the_settings_now(books_url: str) -> None:
    await seal_all(books_url)
    strict = replace(RULES, large_withdrawal_threshold=Decimal(30), rapid_withdrawal_count=2)
    await rebuild(books_url, strict)
    alerts = [(row[1], row[2], row[4]) for row in await fetch_rows(books_url, ALERTS)]
    assert sorted(alerts) == [
        ("alice", "large_withdrawal", "withdrawal of 30.0000 reaches the limit of 30.0000"),
        ("dora", "large_withdrawal", "withdrawal of 12000.0000 reaches the limit of 30.0000"),
        ("dora", "rapid_withdrawals", "2 or more withdrawals within 60 seconds"),
        ("dora", "rapid_withdrawals", "2 or more withdrawals within 60 seconds"),
    ]
    assert await faults_of(books_url) == {}


async def test_wallets_and_alerts_beyond_one_page_are_all_there(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wallet.worker.rebuild.ROWS_WRITTEN", 3)
    async with Log.open(database_url) as log:
        for number in range(8):
            log.deposit(f"wallet-{number}", 100_000)
            for second in range(5):
                log.withdraw(f"wallet-{number}", 10_000 + number, at=second)
            if number:
                log.transfer(f"wallet-{number}", f"wallet-{number - 1}", at=10)
        rows = await log.commit()
    await rebuild(database_url, RULES)
    assert await projections_match(database_url, rows)


async def test_a_live_worker_counts_no_event_twice_and_loses_none(wire: Wire, tmp_path: Path, seed: int) -> None:
    rebuilt: list[Rebuilt] = []
    async with (
        running_ledger(wire.database_url) as ledger,
        running_relay(relay_settings(wire.database_url, wire.rabbitmq_url, tmp_path)),
        wire.worker(),
        wire.worker(),
    ):
        async with load_on(ledger, seed=seed):
            await until(fetch_rows, wire.database_url, "select from processed_events limit 1")
            # Until one has overtaken the workers: only then could an event count twice.
            while len(rebuilt) < 4 or not any(each.entered_count for each in rebuilt):
                rebuilt.append(await rebuild(wire.database_url, RULES))
        await assert_pipeline_is_quiet_and_right(wire.database_url)
    live = await rows_of(wire.database_url)
    assert live[1], "no alert was raised"
    await rebuild(wire.database_url, RULES)
    assert await rows_of(wire.database_url) == live
    assert await faults_of(wire.database_url) == {}


async def test_a_worker_in_the_middle_of_its_transaction_is_waited_for(database_url: str) -> None:
    async with Log.open(database_url) as log, connected(database_url) as worker, connected(database_url) as observer:
        log.deposit("alice", 100)
        log.withdraw("alice", 10_000 // 1000)
        rows = await log.commit()
        configure_failpoints("worker.before_commit=delay:1000")
        messages = [row.message() for row in rows]
        handling = asyncio.create_task(handle_group(worker, messages, RULES, check=check_messages))
        await until(observer.fetch, "select from pg_locks where relation = 'wallet_stats'::regclass and granted")
        rebuilding = asyncio.create_task(rebuild(database_url, RULES))
        await until(
            observer.fetch, "select from pg_locks where relation = 'processed_events'::regclass and not granted"
        )
        assert (await handling).refused == []
        assert (await rebuilding).entered_count == 0, "its snapshot was taken before the worker's commit"
        assert await projections_match(database_url, rows)


async def test_a_worker_that_comes_meanwhile_waits_and_counts_what_the_rebuild_did_not_see(database_url: str) -> None:
    async with Log.open(database_url) as log, connected(database_url) as holder, connected(database_url) as worker:
        log.deposit("alice", 100)
        rows = await log.commit()
        # Someone holds the log's table, so that the rebuild stands still after its lock and before its snapshot.
        async with holder.transaction():
            await holder.execute("lock table events in access exclusive mode")
            rebuilding = asyncio.create_task(rebuild(database_url, RULES))
            await until(holder.fetch, "select from pg_locks where relation = 'events'::regclass and not granted")
            await worker.execute("set lock_timeout = '20s'")
            handling = asyncio.create_task(
                worker.execute("insert into processed_events values (0, gen_random_uuid(), 'failed', 'x', 1, now())")
            )
            query = "select from pg_locks where relation = 'processed_events'::regclass and not granted"
            await until(holder.fetch, query)
        assert (await rebuilding).entered_count == len(rows)
        await handling
        log.deposit("alice", 1)
        later = await log.commit()
        handled = await handle_group(worker, [row.message() for row in (*rows, *later)], RULES, check=check_messages)
        assert handled.refused == []
        await projections_match(database_url, [*rows, *later])


async def test_an_event_with_a_dead_letter_is_in_and_its_replay_counts_nothing(database_url: str) -> None:
    async with Log.open(database_url) as log, connected(database_url) as connection:
        log.deposit("alice", 100)
        log.withdraw("alice", 20_000 // 1000)
        rows = await log.commit()
        messages = [row.message() for row in rows]
        configure_failpoints("worker.before_commit=raise")
        handled = await handle_group(connection, messages, RULES, check=check_messages)
        assert len(handled.refused) == len(rows)
        statuses = await fetch_rows(database_url, "select status from processed_events")
        assert {row["status"] for row in statuses} == {"failed"}
        configure_failpoints("")
        rebuilt = await rebuild(database_url, RULES)
        assert rebuilt.entered_count == len(rows)
        assert await projections_match(database_url, rows)
        [(status, error, count)] = await fetch_rows(
            database_url, "select status, error_message, count(*) from processed_events group by 1, 2"
        )
        assert (status, error, count) == ("success", None, len(rows))
        letters = await fetch_rows(database_url, "select body, headers, state from dead_letters")
        assert [state for _, _, state in letters] == ["open"] * len(rows), "only a person closes them"
        replayed = [
            OutgoingMessage(body, (beside := json.loads(headers))["messageId"], beside["type"])
            for body, headers, _ in letters
        ]
        assert (await handle_group(connection, replayed, RULES, check=check_messages)).refused == []
        assert await projections_match(database_url, rows)


async def test_a_log_with_events_of_a_newer_program_is_left_alone(database_url: str) -> None:
    async with Log.open(database_url) as log:
        log.deposit("alice", 100)
        await log.commit()
        await rebuild(database_url, RULES)
        before = await rows_of(database_url)
        log.deposit("alice", 5)
        [row] = log.pending
        log.pending = []
        await log.commit_newer(row, event_type="FundsFrozen", schema_version=1)
        with pytest.raises(UnknownEvents, match="Version 3 of wallet alice is FundsFrozen"):
            await rebuild(database_url, RULES)
    assert await rows_of(database_url) == before


async def test_an_empty_log_gives_no_rows(database_url: str) -> None:
    rebuilt = await rebuild(database_url, RULES)
    assert (rebuilt.wallet_count, rebuilt.alert_count, rebuilt.event_count, rebuilt.entered_count) == (0, 0, 0, 0)


async def test_a_database_without_our_tables_is_not_rebuilt(empty_database_url: str) -> None:
    with pytest.raises(NotMigrated, match="run `wallet migrate`"):
        await rebuild(empty_database_url, RULES)


async def test_a_worker_outlasts_a_long_rebuild_and_the_api_reads_on(wire: Wire, tmp_path: Path) -> None:
    relay = relay_settings(wire.database_url, wire.rabbitmq_url, tmp_path)
    async with (
        connected(wire.database_url) as holder,
        running_relay(relay),
        running_ledger(wire.database_url) as ledger,
    ):
        with capture_logs() as lines:
            async with wire.worker():
                async with holder.transaction():
                    await holder.execute(load_statements("wallet.worker", "rebuild.sql").lock_projections)
                    await send(ledger, deposit("alice", 100))
                    await until(has_logged, lines, "worker_paused", within=40)
                    assert await fetch_rows(wire.database_url, STATS) == []
                await assert_pipeline_is_quiet_and_right(wire.database_url)
    assert [row[1:3] for row in await fetch_rows(wire.database_url, STATS)] == [("alice", Decimal(100))]
