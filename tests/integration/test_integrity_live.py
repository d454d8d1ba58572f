"""The running integrity monitor: on a system in use, and after crashes, outages and lost leases."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.support.api import running_api
from tests.support.database import execute, fetch_rows
from tests.support.integrity_monitor import hand_monitor
from tests.support.ledger import deposit, running_ledger, send
from tests.support.live_load import load_on
from tests.support.postgres import PostgresServer
from tests.support.relay import relay_settings, running_relay
from tests.support.verification import as_owner
from tests.support.waiting import eventually
from tests.support.worker import running_worker
from tests.support.written_books import seal_all
from wallet.integrity.checks import journal as journal_module
from wallet.integrity.findings import Check
from wallet.integrity.monitor import checking as monitor_module
from wallet.integrity.monitor import incremental_check as incremental_check_module
from wallet.integrity.monitor import state as state_module
from wallet.integrity.monitor.monitor import run_monitor
from wallet.integrity.monitor.state import FULL, MonitorLease, MonitorState, decode_state
from wallet.postgres.connections import connect
from wallet.postgres.lease import LeaseLost, LeaseTable
from wallet.postgres.migrations import migrate


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that a test would wait for comes soon."""
    for name, seconds in (("INCREMENTAL_SECONDS", 0.05), ("FIRST_CHECK_SECONDS", 0.02), ("STANDBY_SECONDS", 0.05)):
        monkeypatch.setattr(monitor_module, name, seconds)
    monkeypatch.setattr(monitor_module, "FULL_CHECK_SECONDS", 0.1)
    monkeypatch.setattr(incremental_check_module, "BALANCE_SUM_SECONDS_MIN", 0.0)
    monkeypatch.setattr(incremental_check_module, "BALANCE_SUM_REST", 1.0)
    monkeypatch.setattr(monitor_module, "PAUSE_FACTOR", 0.5)
    monkeypatch.setattr(monitor_module, "PAUSE_FACTOR_IDLE", 0.5)


@asynccontextmanager
async def running_monitor(database_url: str) -> AsyncIterator[asyncio.Event]:
    """Run an integrity monitor, and stop it at the end; it must stop at once."""
    stop = asyncio.Event()
    monitoring = asyncio.create_task(run_monitor(database_url, stop))
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(5):
            await monitoring


async def row_of(database_url: str) -> tuple[dict[str, Any], MonitorState]:
    [row] = await fetch_rows(database_url, "select holder, token, lease_until, state::text as state from auditor")
    return dict(row), decode_state(row["state"])


async def state_of(database_url: str) -> MonitorState:
    return (await row_of(database_url))[1]


async def has_passed_since(database_url: str, begun: Any = None) -> bool:
    passed = (await state_of(database_url)).full_result
    return passed is not None and (begun is None or passed.begun_at > begun)


async def test_a_system_at_work_gives_no_false_alarm_without_a_broker(
    database_url: str, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await check_no_false_alarm(database_url, None, tmp_path, seed, monkeypatch)


async def test_a_system_at_work_gives_no_false_alarm_with_rabbitmq(
    database_url: str, rabbitmq_url: str, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await check_no_false_alarm(database_url, rabbitmq_url, tmp_path, seed, monkeypatch)


async def check_no_false_alarm(
    database_url: str, rabbitmq_url: str | None, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "BATCHES_READ", 7)
    monkeypatch.setattr(incremental_check_module, "EVENTS_MAX", 50)
    async with (
        running_ledger(database_url) as whole,
        running_ledger(database_url, is_stepwise=True) as stepwise,
        running_relay(relay_settings(database_url, rabbitmq_url, tmp_path)),
        running_worker(database_url, rabbitmq_url),
        running_monitor(database_url),
    ):
        async with load_on(whole, stepwise, seed=seed):
            passes = set()

            async def has_proved_much() -> bool:
                state = await state_of(database_url)
                assert state.faults == {}
                if state.full_result is not None and state.full_result.tallies["VERSIONS"].checked_count:
                    passes.add(state.full_result.begun_at)
                return len(passes) >= 5 and state.incremental is not None and state.incremental.head.position > 300

            await eventually(has_proved_much, within=90)
        last = max(passes)

        async def is_quiet() -> bool:
            state = await state_of(database_url)
            assert state.faults == {}
            checked = state.incremental
            assert checked is not None
            assert checked.is_caught_up
            assert checked.lag.event_count == 0
            assert checked.lag.position == checked.head.position
            return await has_passed_since(database_url, last)

        await eventually(is_quiet, within=30)


async def test_a_fault_made_beside_live_load_is_red_at_once(database_url: str, tmp_path: Path, seed: int) -> None:
    async with (
        running_ledger(database_url) as ledger,
        running_relay(relay_settings(database_url, None, tmp_path)),
        running_monitor(database_url),
        load_on(ledger, seed=seed, callers=4),
    ):
        await send(ledger, deposit("mallory", 1))
        async with as_owner(database_url) as connection:
            await connection.execute("update wallets set balance = balance + 1 where wallet_id = 'mallory'")

        async def is_red() -> bool:
            return "BALANCES" in (await state_of(database_url)).faults

        await eventually(is_red)


async def test_one_monitor_is_active_and_another_takes_over_at_its_stop(books_url: str) -> None:
    async with running_monitor(books_url):
        await eventually(lambda: has_passed_since(books_url))
        first, _ = await row_of(books_url)
        async with running_monitor(books_url) as stop:
            before = await state_of(books_url)
            assert before.full_result is not None
            begun = before.full_result.begun_at
            await eventually(lambda: has_passed_since(books_url, begun))
            assert (await row_of(books_url))[0]["token"] == first["token"]
            stop.set()
    released, kept = await row_of(books_url)
    assert released["holder"] is None
    assert kept.full_result is not None
    async with running_monitor(books_url):

        async def is_taken() -> bool:
            row, _ = await row_of(books_url)
            return bool(row["token"] > first["token"] and row["holder"])

        await eventually(is_taken)


async def test_another_takes_over_when_the_lease_of_one_that_was_killed_ends(books_url: str) -> None:
    await execute(
        books_url, "update auditor set holder = 'killed', token = 7, lease_until = now() + interval '1 second'"
    )
    async with running_monitor(books_url):

        async def is_taken() -> bool:
            return bool((await row_of(books_url))[0]["token"] == 8)

        await eventually(is_taken)
        await eventually(lambda: has_passed_since(books_url))


async def test_a_lease_that_ends_later_than_a_lease_can_last_has_ended(books_url: str) -> None:
    """As after the clock was put back by an hour."""
    await execute(books_url, "update auditor set holder = 'x', token = 7, lease_until = now() + interval '1 hour'")
    async with running_monitor(books_url):
        await eventually(lambda: has_passed_since(books_url))
    assert (await row_of(books_url))[0]["token"] == 8


async def test_a_monitor_that_stands_by_logs_once_who_holds_the_lease(books_url: str) -> None:
    await execute(books_url, "update auditor set holder = 'x', lease_until = now() + interval '2 seconds'")
    with capture_logs() as logs:
        async with running_monitor(books_url):
            await eventually(lambda: "integrity_lease_taken" in [log["event"] for log in logs])
    assert [log["holder"] for log in logs if log["event"] == "integrity_stands_by"] == ["x"]


async def test_a_monitor_that_slept_past_its_lease_writes_nothing(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hand_monitor(books_url) as monitor:
        await monitor.check_all()
        connection = await connect(books_url, application_name="test")
        monkeypatch.setattr(state_module, "MONITOR", LeaseTable("auditor", state_module.MONITOR.length * 0))
        await monitor.check_new()
        other = await MonitorLease.take(connection, "another")
        assert other is not None
        before, _ = await row_of(books_url)
        for step in (monitor.check_new, monitor.pass_on):
            with pytest.raises(LeaseLost):
                await step()
        assert (await row_of(books_url))[0] == before
        await connection.close()


async def test_what_was_found_and_how_far_it_came_survives_a_restart(books_url: str) -> None:
    async with hand_monitor(books_url) as monitor:
        await monitor.check_all()
        async with as_owner(books_url) as connection:
            await connection.execute("update wallets set balance = balance + 5 where wallet_id = 'alice'")
        await monitor.pass_on()
        await monitor.pass_on()
        before = monitor.state
    async with hand_monitor(books_url) as monitor:
        assert msgspec.to_builtins(monitor.state) == msgspec.to_builtins(before)
        assert monitor.state.full_progress is not None
        assert monitor.state.faults
        await monitor.pass_over()
        passed = monitor.state.full_result
    assert passed is not None
    assert before.full_progress is not None
    assert passed.begun_at == before.full_progress.begun_at


async def test_an_unreadable_state_is_recreated(books_url: str) -> None:
    await execute(books_url, """update auditor set state = '{"looked": 7}'""")
    async with hand_monitor(books_url) as monitor:
        await monitor.check_all()
        assert monitor.faults == {}


async def test_a_full_check_that_fails_does_not_stop_the_incremental_checks(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    async with hand_monitor(books_url) as monitor:
        await monitor.check_all()
    before = (await state_of(books_url)).incremental
    assert before is not None
    async with running_monitor(books_url):
        with monkeypatch.context() as patch:
            patch.setattr(monitor_module, "check_slice", fail)

            async def has_checked_again() -> bool:
                checked = (await state_of(books_url)).incremental
                return checked is not None and checked.taken_at > before.taken_at

            async def is_reported() -> bool:
                failed = (await state_of(books_url)).failed
                return {name: failure.error for name, failure in failed.items()} == {FULL: "a bug"}

            await eventually(has_checked_again)
            # Soon, and with its error: nobody has to wait until the check is overdue.
            await eventually(is_reported)

        async def is_forgotten() -> bool:
            return not (await state_of(books_url)).failed

        await eventually(is_forgotten)


async def test_a_damaged_page_is_a_fault_until_it_is_readable_again(own_postgres_server: PostgresServer) -> None:
    url = own_postgres_server.create_database()
    async with running_ledger(url) as ledger:
        await send(ledger, deposit("alice", "5.0000"))
    await seal_all(url)
    await asyncio.to_thread(own_postgres_server.damage, url, "operations")
    async with running_monitor(url):

        async def is_seen() -> bool:
            state = await state_of(url)
            return Check.READABLE.name in state.faults and FULL in state.failed

        await eventually(is_seen)
        async with running_api(url) as api:

            async def is_broken() -> bool:
                report = (await api.get("/integrity")).json
                assert report["status"] == "broken"
                assert [fault["check"] for fault in report["faults"]] == ["readable"]
                assert "operations" in report["faults"][0]["row"] or "invalid page" in report["faults"][0]["row"]
                assert any(warning["name"] == "fullPass" for warning in report["warnings"])
                return True

            await eventually(is_broken)
        async with as_owner(url) as connection:
            await connection.execute("truncate operations")

        async def is_readable() -> bool:
            state = await state_of(url)
            return Check.READABLE.name not in state.faults and not state.failed

        await eventually(is_readable)


async def test_an_outage_of_the_database_is_waited_for(own_postgres_server: PostgresServer) -> None:
    url = own_postgres_server.create_database()
    async with running_monitor(url):
        await eventually(lambda: has_passed_since(url))
        before = (await state_of(url)).full_result
        assert before is not None
        await asyncio.to_thread(own_postgres_server.kill)
        await asyncio.to_thread(own_postgres_server.start)
        await eventually(lambda: has_passed_since(url, before.begun_at), within=40, every=0.2)


async def test_a_monitor_without_a_database_stops_at_once(own_postgres_server: PostgresServer) -> None:
    url = own_postgres_server.create_database()
    async with running_monitor(url) as stop:
        await eventually(lambda: has_passed_since(url))
        await asyncio.to_thread(own_postgres_server.stop)
        stop.set()


async def test_a_database_of_an_earlier_version_is_waited_for(empty_database_url: str) -> None:
    async with running_monitor(empty_database_url):
        await migrate(empty_database_url)
        await eventually(lambda: has_passed_since(empty_database_url), within=20)
