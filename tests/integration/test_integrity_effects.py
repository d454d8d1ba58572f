"""An incremental check reports an event that will never be delivered, and is bounded in time."""

from datetime import timedelta

import asyncpg
import pytest

from tests.integration.test_verify_effects import go_on, keep_forged, steal_a_deposit
from tests.support.integrity_monitor import hand_monitor
from tests.support.ledger import deposit, running_ledger, send
from tests.support.worker import RULES
from tests.support.written_books import LAST_POSITION, process_all, seal_all
from wallet.dead_letters.reading import DeadLetterId, open_database
from wallet.dead_letters.replay import discard
from wallet.integrity.findings import Check
from wallet.integrity.monitor import incremental_check as incremental_check_module
from wallet.integrity.monitor import lag as lag_module
from wallet.integrity.monitor.state import PAGE_EVENTS_MAX, JournalHead, Lag, Start, Sums
from wallet.integrity.snapshot import SQL as PROOF_SQL
from wallet.worker.rebuild import rebuild


@pytest.fixture
def no_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """What had no effect is not waited for."""
    monkeypatch.setattr(lag_module, "EFFECT_WITHIN", timedelta(0))
    monkeypatch.setattr("wallet.integrity.checks.delivery.EFFECT_WITHIN", timedelta(0))


async def close_by_force(database_url: str) -> None:
    async with open_database(database_url) as connection:
        await discard(connection, DeadLetterId(1), actor="ann", reason="forged", is_forced=True)


@pytest.mark.usefixtures("no_minute")
async def test_a_lost_event_is_named_by_incremental_checks_alone_and_no_longer_counted_as_lag(
    database_url: str,
) -> None:
    async with hand_monitor(database_url) as monitor:
        await monitor.check_all()
        event_id = await steal_a_deposit(database_url)
        await monitor.check_new()
        assert monitor.faults == {}
        checked = monitor.state.incremental
        assert checked is not None
        assert checked.lag.event_count == 2
        await go_on(database_url)
        await monitor.check_new()
        fault = monitor.faults[Check.EFFECTS]
        assert event_id in fault.row
        assert "(wallet victim, version 2)" in fault.row
        assert fault.count == 2
        assert monitor.state.incremental is not None
        assert monitor.state.incremental.lag == Lag(3, 0, None)
        await rebuild(database_url, RULES)
        await monitor.check_new()
        assert monitor.state.waiting == []


@pytest.mark.usefixtures("no_minute")
async def test_a_discard_by_force_is_named_by_the_next_incremental_check_however_old_the_batch_is(
    database_url: str,
) -> None:
    event_id = await steal_a_deposit(database_url)
    await keep_forged(database_url, event_id)
    async with hand_monitor(database_url) as monitor:
        monitor.state.start = Start(JournalHead(), Sums())
        await monitor.check_new()
        assert monitor.faults == {}
        await go_on(database_url)
        await monitor.check_new()
        assert event_id not in str(monitor.faults)
        await close_by_force(database_url)
        await monitor.check_new()
        assert event_id in monitor.faults[Check.EFFECTS].row


async def test_an_event_younger_than_a_minute_is_not_lost_yet(database_url: str) -> None:
    await steal_a_deposit(database_url)
    await go_on(database_url)
    async with hand_monitor(database_url) as monitor:
        await monitor.check_all()
        assert monitor.faults == {}


async def test_an_incremental_check_ends_in_time_and_the_next_ones_catch_up(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incremental_check_module, "SECONDS_MAX", 0.0)
    monkeypatch.setattr(lag_module, "SECONDS_MAX", 0.0)
    async with hand_monitor(books_url) as monitor:
        monitor.state.start = Start(JournalHead(), Sums())
        monitor.state.page_events = 7
        checks, before = 0, 0
        while before < LAST_POSITION:
            await monitor.check_new_once()
            checked = monitor.state.incremental
            assert checked is not None
            assert before < checked.head.position <= before + 7
            before, checks = checked.head.position, checks + 1
        assert checks > LAST_POSITION // 7
        assert monitor.faults == {}


async def test_an_incremental_check_that_took_too_long_is_retried_with_fewer_events(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hand_monitor(books_url) as monitor:
        await monitor.check_all()
        monkeypatch.setattr(PROOF_SQL, "head", "select pg_sleep(1)")
        await monitor.set_statement_timeout("50ms")
        for page_events in (PAGE_EVENTS_MAX // 2, PAGE_EVENTS_MAX // 4):
            with pytest.raises(asyncpg.QueryCanceledError):
                await monitor.check_new()
            assert monitor.state.page_events == page_events
        monkeypatch.undo()
        await monitor.set_statement_timeout("5s")
        await monitor.check_new()
        await monitor.check_new()
        assert monitor.state.page_events == PAGE_EVENTS_MAX


async def test_a_backlog_of_the_worker_is_counted_as_far_as_the_time_goes(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lag_module, "SECONDS_MAX", 0.0)
    async with running_ledger(database_url) as ledger:
        for number in range(20):
            await send(ledger, deposit(f"w{number}", 1))
    await seal_all(database_url)
    async with hand_monitor(database_url) as monitor:
        monitor.state.start = Start(JournalHead(), Sums())
        monitor.state.page_events = 10
        await monitor.check_new_once()
        assert monitor.state.incremental is not None
        assert monitor.state.incremental.lag.event_count == 10
        await process_all(database_url)
        await monitor.check_new()
        for _ in range(5):
            await monitor.check_new()
        assert monitor.state.incremental.lag == Lag(20, 0, None)
