"""The integrity monitor's incremental and full checks: clean books stay clean, and a change is on record after one."""

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
from wallet.integrity.monitor.state import Lag, StoredFault, decode_state, encode_state


async def test_untouched_books_are_clean_in_every_incremental_and_full_check(books_url: str) -> None:
    async with hand_monitor(books_url) as monitor:
        for _ in range(3):
            await monitor.check_all()
            assert monitor.faults == {}
        passed, checked = monitor.state.full_result, monitor.state.incremental
    assert passed is not None
    assert checked is not None
    assert passed.tallies.keys() == {check.name for check in Check}
    assert passed.tallies["VERSIONS"].checked_count == passed.tallies["CONSERVATION"].checked_count > 100
    assert passed.tallies["DIGESTS"].checked_count == LAST_POSITION + 2
    assert checked.head.position == LAST_POSITION
    assert checked.lag.position == LAST_POSITION
    assert checked.lag.event_count == 0
    assert checked.in_flight == 0


async def test_an_empty_database_is_clean_too(database_url: str) -> None:
    async with hand_monitor(database_url) as monitor:
        await monitor.check_all()
        await monitor.check_all()
        assert monitor.faults == {}
        assert monitor.state.incremental is not None


async def test_books_that_nobody_uses_are_passed_over_at_leisure(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "PAUSE_FACTOR", 0.0)
    async with hand_monitor(books_url) as monitor:
        await monitor.check_all()
        assert await monitor.pass_on() > 0
        await monitor.pass_over()
        async with running_ledger(books_url) as ledger:
            await send(ledger, deposit("alice", 1))
        await seal_all(books_url)
        await monitor.check_new()
        assert await monitor.pass_on() == 0


async def test_a_slow_slice_does_not_put_the_pass_to_sleep(books_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_module, "PAUSE_FACTOR", 1e9)
    async with hand_monitor(books_url) as monitor:
        assert await monitor.pass_on() == monitor_module.PAUSE_SECONDS_MAX == 60


async def test_one_event_without_effect_is_a_lag_of_one_however_much_was_processed_after_it(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However old the books are: what came later does not show yet that this one is lost.
    monkeypatch.setattr("wallet.integrity.monitor.lag.EFFECT_WITHIN", timedelta(hours=1))
    async with hand_monitor(books_url) as monitor, as_owner(books_url) as connection:
        await monitor.check_all()
        monitor.state.page_events = 7
        await connection.execute(
            """delete from processed_events where event_id =
            (select event_id from events where wallet_id = 'alice' and version = 3)"""
        )
        checked = monitor.state.incremental
        assert checked is not None
        monitor.state.incremental = msgspec.structs.replace(checked, lag=Lag())
        await monitor.check_new()
        assert monitor.state.incremental.lag.event_count == 1


async def test_what_a_newer_version_left_does_not_wedge_the_pass(books_url: str) -> None:
    async with hand_monitor(books_url) as monitor:
        await monitor.check_all()
        await monitor.pass_on()
        assert monitor.state.full_progress is not None
        stored = encode_state(monitor.state)
        assert '"stage":"wallets"' in stored
        monitor.state.full_progress = decode_state(stored.replace('"stage":"wallets"', '"stage":"later"')).full_progress
        assert monitor.state.full_progress is not None
        now = monitor.state.full_progress.begun_at
        monitor.state.faults["LATER"] = StoredFault("table", "row", "this", "that", 1, now, now)
        await monitor.pass_over()
        assert monitor.state.faults.keys() == {"LATER"}


async def test_a_warning_shortens_the_rest_on_idle_books(books_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_module, "PAUSE_FACTOR", 0.0)
    async with hand_monitor(books_url) as monitor:
        await monitor.check_all()
        assert monitor.state.full_result is not None
        monitor.state.full_result.tallies["DELIVERY"].warnings = ["waits"]
        assert await monitor.pass_on() == 0


async def test_a_large_slice_of_wallets_shrinks_and_a_quick_one_grows(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hand_monitor(books_url) as monitor:
        await monitor.pass_over()
        slices = monitor.state.full_result and monitor.state.full_result.slices
        assert monitor.state.width == 64
        monkeypatch.setattr("wallet.integrity.monitor.full_check.SLICE_SECONDS_MIN", 0.0)
        monkeypatch.setattr("wallet.integrity.monitor.full_check.SLICE_SECONDS_MAX", 0.0)
        await monitor.pass_over()
        assert monitor.state.width == 32
        assert monitor.faults == {}
        assert slices == 6


async def test_a_slice_of_wallets_has_as_many_buckets_as_hold_so_many_events(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_count = await fetch_value(books_url, "select count(*) from events")
    assert isinstance(event_count, int)
    monkeypatch.setattr("wallet.integrity.monitor.full_check.EVENTS_READ", event_count // 16)
    async with hand_monitor(books_url) as monitor:
        await monitor.pass_on()
        assert monitor.state.full_progress is not None
        assert (monitor.state.full_progress.stage, monitor.state.width) == (
            "wallets",
            64 * (event_count // 16) // event_count,
        )
        assert monitor.state.width < 5
