"""The monitor names an event that nothing will bring any more, at a look, and looks are bounded in time."""

from datetime import timedelta

import asyncpg
import pytest

from tests.integration.test_verify_effects import go_on, keep_forged, steal_a_deposit
from tests.support.integrity_monitor import hand_monitor
from tests.support.ledger import deposit, running_ledger, send
from tests.support.worker import RULES
from tests.support.written_books import LAST_POSITION, process_all, seal_all
from wallet.dead_letters.letters import LetterId, open_database
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
        await discard(connection, LetterId(1), actor="ann", reason="forged", is_forced=True)


@pytest.mark.usefixtures("no_minute")
async def test_a_lost_event_is_named_by_the_looks_alone_and_no_lag_any_more(database_url: str) -> None:
    async with hand_monitor(database_url) as auditor:
        await auditor.settle()
        event_id = await steal_a_deposit(database_url)
        await auditor.look()
        assert auditor.faults == {}
        looked = auditor.state.looked
        assert looked is not None
        assert looked.lag.event_count == 2
        await go_on(database_url)
        await auditor.look()
        fault = auditor.faults[Check.EFFECTS]
        assert event_id in fault.row
        assert "(wallet victim, version 2)" in fault.row
        assert fault.count == 2
        assert auditor.state.looked is not None
        assert auditor.state.looked.lag == Lag(3, 0, None)
        await rebuild(database_url, RULES)
        await auditor.look()
        assert auditor.state.waiting == []


@pytest.mark.usefixtures("no_minute")
async def test_a_discard_by_force_is_named_by_the_next_look_however_long_ago_the_batch_was_passed(
    database_url: str,
) -> None:
    event_id = await steal_a_deposit(database_url)
    await keep_forged(database_url, event_id)
    async with hand_monitor(database_url) as auditor:
        auditor.state.start = Start(JournalHead(), Sums())
        await auditor.look()
        assert auditor.faults == {}
        await go_on(database_url)
        await auditor.look()
        assert event_id not in str(auditor.faults)
        await close_by_force(database_url)
        await auditor.look()
        assert event_id in auditor.faults[Check.EFFECTS].row


async def test_an_event_younger_than_a_minute_is_not_lost_yet(database_url: str) -> None:
    await steal_a_deposit(database_url)
    await go_on(database_url)
    async with hand_monitor(database_url) as auditor:
        await auditor.settle()
        assert auditor.faults == {}


async def test_a_look_ends_in_time_and_the_next_ones_come_to_the_end(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incremental_check_module, "SECONDS_MAX", 0.0)
    monkeypatch.setattr(lag_module, "SECONDS_MAX", 0.0)
    async with hand_monitor(books_url) as auditor:
        auditor.state.start = Start(JournalHead(), Sums())
        auditor.state.page_events = 7
        looks, before = 0, 0
        while before < LAST_POSITION:
            await auditor.check_new_once()
            looked = auditor.state.looked
            assert looked is not None
            assert before < looked.head.position <= before + 7
            before, looks = looked.head.position, looks + 1
        assert looks > LAST_POSITION // 7
        assert auditor.faults == {}


async def test_a_look_that_took_too_long_is_tried_again_with_less(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hand_monitor(books_url) as auditor:
        await auditor.settle()
        monkeypatch.setattr(PROOF_SQL, "head", "select pg_sleep(1)")
        await auditor.set_statement_timeout("50ms")
        for page_events in (PAGE_EVENTS_MAX // 2, PAGE_EVENTS_MAX // 4):
            with pytest.raises(asyncpg.QueryCanceledError):
                await auditor.look()
            assert auditor.state.page_events == page_events
        monkeypatch.undo()
        await auditor.set_statement_timeout("5s")
        await auditor.look()
        await auditor.look()
        assert auditor.state.page_events == PAGE_EVENTS_MAX


async def test_a_backlog_of_the_worker_is_counted_as_far_as_the_time_goes(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lag_module, "SECONDS_MAX", 0.0)
    async with running_ledger(database_url) as ledger:
        for number in range(20):
            await send(ledger, deposit(f"w{number}", 1))
    await seal_all(database_url)
    async with hand_monitor(database_url) as auditor:
        auditor.state.start = Start(JournalHead(), Sums())
        auditor.state.page_events = 10
        await auditor.check_new_once()
        assert auditor.state.looked is not None
        assert auditor.state.looked.lag.event_count == 10
        await process_all(database_url)
        await auditor.look()
        for _ in range(5):
            await auditor.look()
        assert auditor.state.looked.lag == Lag(20, 0, None)
