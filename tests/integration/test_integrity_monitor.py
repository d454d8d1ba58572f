"""The auditor's looks and passes: clean books stay clean, and whatever was changed is on record within one of them."""

from datetime import timedelta

import msgspec
import pytest

from tests.support.database import fetch_value
from tests.support.integrity_monitor import hand_monitor
from tests.support.ledger import deposit, running_ledger, send
from tests.support.verification import as_owner
from tests.support.written_books import LAST_POSITION, seal_all
from wallet.integrity.findings import Check
from wallet.integrity.monitor import checking as monitor_module
from wallet.integrity.monitor.state import Lag, StoredFault


async def test_untouched_books_are_clean_in_every_look_and_pass(books_url: str) -> None:
    async with hand_monitor(books_url) as auditor:
        for _ in range(3):
            await auditor.settle()
            assert auditor.faults == {}
        passed, looked = auditor.state.passed, auditor.state.looked
    assert passed is not None
    assert looked is not None
    assert passed.tallies.keys() == {check.name for check in Check}
    assert passed.tallies["VERSIONS"].looked_at == passed.tallies["CONSERVATION"].looked_at > 100
    assert passed.tallies["DIGESTS"].looked_at == LAST_POSITION + 2
    assert looked.head.position == LAST_POSITION
    assert looked.lag.position == LAST_POSITION
    assert looked.lag.event_count == 0
    assert looked.in_flight == 0


async def test_an_empty_database_is_clean_too(database_url: str) -> None:
    async with hand_monitor(database_url) as auditor:
        await auditor.settle()
        await auditor.settle()
        assert auditor.faults == {}
        assert auditor.state.looked is not None


async def test_books_that_nobody_uses_are_passed_over_at_leisure(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "PAUSE_FACTOR", 0.0)
    async with hand_monitor(books_url) as auditor:
        await auditor.settle()
        assert await auditor.pass_on() > 0
        await auditor.pass_over()
        async with running_ledger(books_url) as ledger:
            await send(ledger, deposit("alice", 1))
        await seal_all(books_url)
        await auditor.look()
        assert await auditor.pass_on() == 0


async def test_a_slow_slice_does_not_put_the_pass_to_sleep(books_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_module, "PAUSE_FACTOR", 1e9)
    async with hand_monitor(books_url) as auditor:
        assert await auditor.pass_on() == monitor_module.PAUSE_SECONDS_MAX == 60


async def test_one_event_without_effect_is_a_lag_of_one_however_much_was_processed_after_it(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However old the books are: what came later does not show yet that this one is lost.
    monkeypatch.setattr("wallet.integrity.monitor.lag.EFFECT_WITHIN", timedelta(hours=1))
    async with hand_monitor(books_url) as auditor, as_owner(books_url) as connection:
        await auditor.settle()
        auditor.state.page_events = 7
        await connection.execute(
            """delete from processed_events where event_id =
            (select event_id from events where wallet_id = 'alice' and version = 3)"""
        )
        looked = auditor.state.looked
        assert looked is not None
        auditor.state.looked = msgspec.structs.replace(looked, lag=Lag())
        await auditor.look()
        assert auditor.state.looked.lag.event_count == 1


async def test_what_a_newer_version_left_does_not_wedge_the_pass(books_url: str) -> None:
    async with hand_monitor(books_url) as auditor:
        await auditor.settle()
        await auditor.pass_on()
        assert auditor.state.passing is not None
        auditor.state.passing.stage = "later"
        now = auditor.state.passing.begun_at
        auditor.state.faults["LATER"] = StoredFault("table", "row", "this", "that", 1, now, now)
        await auditor.pass_over()
        assert auditor.state.faults.keys() == {"LATER"}


async def test_a_warning_shortens_the_rest_on_idle_books(books_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_module, "PAUSE_FACTOR", 0.0)
    async with hand_monitor(books_url) as auditor:
        await auditor.settle()
        assert auditor.state.passed is not None
        auditor.state.passed.tallies["DELIVERY"].warnings = ["waits"]
        assert await auditor.pass_on() == 0


async def test_a_large_slice_of_wallets_shrinks_and_a_quick_one_grows(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hand_monitor(books_url) as auditor:
        await auditor.pass_over()
        slices = auditor.state.passed and auditor.state.passed.slices
        assert auditor.state.width == 64
        monkeypatch.setattr("wallet.integrity.monitor.full_check.SLICE_SECONDS_MIN", 0.0)
        monkeypatch.setattr("wallet.integrity.monitor.full_check.SLICE_SECONDS_MAX", 0.0)
        await auditor.pass_over()
        assert auditor.state.width == 32
        assert auditor.faults == {}
        assert slices == 6


async def test_a_slice_of_wallets_has_as_many_buckets_as_hold_so_many_events(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_count = await fetch_value(books_url, "select count(*) from events")
    assert isinstance(event_count, int)
    monkeypatch.setattr("wallet.integrity.monitor.full_check.EVENTS_READ", event_count // 16)
    async with hand_monitor(books_url) as auditor:
        await auditor.pass_on()
        assert auditor.state.passing is not None
        assert (auditor.state.passing.stage, auditor.state.width) == (
            "wallets",
            64 * (event_count // 16) // event_count,
        )
        assert auditor.state.width < 5
