"""`GET /integrity` and its metrics: clean, behind and broken, and what each reports to the reader."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import pytest

from tests.support.api import RunningApi, running_api
from tests.support.integrity_monitor import hand_monitor
from tests.support.ledger import deposit, running_ledger, send, transfer
from tests.support.postgres import PostgresServer
from tests.support.proxy import Proxy
from tests.support.verification import as_owner
from tests.support.waiting import eventually
from tests.support.written_books import LAST_POSITION, process_all, seal_all
from wallet.api.contract.schemas import IntegrityResponse
from wallet.api.routes import integrity_report as report_module
from wallet.ledger.requests import OutcomeUnknown
from wallet.runtime.failpoints import configure_failpoints


async def integrity_of(api: RunningApi) -> dict[str, Any]:
    answer = await api.get("/integrity")
    assert answer.status == 200
    msgspec.json.decode(answer.body, type=IntegrityResponse)
    found: dict[str, Any] = msgspec.json.decode(answer.body)
    return found


async def status_becomes(api: RunningApi, status: str) -> dict[str, Any]:
    async def is_so() -> dict[str, Any]:
        found = await integrity_of(api)
        assert found["status"] == status, found
        return found

    return await eventually(is_so)


@asynccontextmanager
async def once_checked_api(books_url: str) -> AsyncIterator[RunningApi]:
    """Run an api whose books were found clean by an integrity monitor that has stopped."""
    await seal_all(books_url)
    async with running_api(books_url) as api:
        async with hand_monitor(books_url) as monitor:
            await monitor.check_all()
        await status_becomes(api, "clean")
        yield api


async def metrics_of(api: RunningApi) -> dict[str, float]:
    lines = (await api.get("/metrics")).body.decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("wallet_") and "{" not in line)
    return {name: float(value) for name, value in pairs}


async def test_books_that_were_never_checked_are_starting_and_name_the_missing_monitor(books_url: str) -> None:
    async with running_api(books_url) as api:
        found = await integrity_of(api)
        assert found["status"] == "starting"
        assert "not everything has been checked once" in found["summary"]
        assert [warning["name"] for warning in found["warnings"]][:2] == ["monitor", "fullPass"]
        assert "Is a worker running?" in found["warnings"][0]["detail"]
        assert found["incremental"]["ageSeconds"] is None
        assert {check["status"] for check in found["checks"]} == {"unproved"}
        assert (await metrics_of(api))["wallet_integrity_check_age_seconds"] == float("inf")


async def test_a_pass_over_an_empty_journal_proves_nothing_of_what_comes_then(database_url: str) -> None:
    async with running_api(database_url) as api, hand_monitor(database_url) as monitor:
        await status_becomes(api, "starting")
        await monitor.check_all()
        found = await status_becomes(api, "clean")
        assert found["summary"] == "Nothing has been written yet, so there is nothing to check."
        async with running_ledger(database_url) as ledger:
            await send(ledger, deposit("alice", 1))
        await seal_all(database_url)
        found = await status_becomes(api, "starting")
        assert {check["status"] for check in found["checks"]} == {"unproved"}
        await monitor.check_new()
        assert monitor.is_full_check_wanted, "the full check must not wait for its turn"
        await process_all(database_url)
        await monitor.check_all()
        found = await status_becomes(api, "clean")
        assert {check["status"] for check in found["checks"]} == {"clean"}


async def test_clean_does_not_say_that_nothing_is_behind_while_something_is(books_url: str) -> None:
    async with once_checked_api(books_url) as api:
        async with running_ledger(books_url) as ledger:
            await send(ledger, deposit("alice", 1))

        async def is_reported(text: str) -> bool:
            found = await integrity_of(api)
            assert found["status"] == "clean"
            assert "nothing is behind" not in found["summary"]
            assert text in found["summary"]
            return True

        await eventually(partial(is_reported, "events to be published"))
        await seal_all(books_url)
        await eventually(partial(is_reported, "1 batch to be checked"))
        async with hand_monitor(books_url) as monitor:
            await monitor.check_new()
        await eventually(partial(is_reported, "1 published event to have their effects"))


async def test_a_broken_sum_is_reported_as_a_difference_beside_the_one_total(books_url: str) -> None:
    await seal_all(books_url)
    async with running_api(books_url) as api, hand_monitor(books_url) as monitor:
        await monitor.check_all()
        async with as_owner(books_url) as connection:
            await connection.execute("update wallets set balance = balance + 5 where wallet_id = 'alice'")
        monitor.state.balance_sum = None
        await monitor.check_new()
        found = await status_becomes(api, "broken")
        [fault] = [fault for fault in found["faults"] if fault["check"] == "conservation"]
        assert fault["found"] == "5.0000 too much"
        monitor.state.faults.clear()
        await monitor.pass_over()
        found = await status_becomes(api, "broken")
    [fault] = [fault for fault in found["faults"] if fault["check"] == "conservation"]
    assert "5.0000 too much" in fault["found"]
    numbers = set(re.findall(r"[0-9]+\.[0-9]{4}", f"{fault['expected']} {fault['found']} {fault['row']}"))
    assert numbers == {"5.0000"}


async def test_clean_books_are_reported_in_every_number(books_url: str) -> None:
    await seal_all(books_url)
    async with running_api(books_url) as api, hand_monitor(books_url) as monitor:
        await monitor.check_all()
        found = await status_becomes(api, "clean")
        metrics = await metrics_of(api)
    assert found["faults"] == found["warnings"] == []
    assert {check["status"] for check in found["checks"]} == {"clean"}
    money = found["conservation"]
    assert money["withdrawals"] == "12032.0000"
    assert money["inFlight"] == "0.0000"
    assert found["journal"] == {"positions": LAST_POSITION + 2, "gaps": 0}
    assert found["incremental"]["position"] == LAST_POSITION + 2
    assert found["incremental"]["behindBatches"] == 0
    assert found["fullPass"]["durationSeconds"] > 0
    assert found["fullPass"]["underWay"] is None
    assert metrics["wallet_integrity_status"] == 0
    assert metrics["wallet_integrity_check_age_seconds"] < 60
    assert metrics["wallet_money_in_flight"] == 0


async def test_a_broken_promise_is_named_with_its_row_and_counted_in_the_metrics(books_url: str) -> None:
    await seal_all(books_url)
    async with running_api(books_url) as api, hand_monitor(books_url) as monitor:
        async with as_owner(books_url) as connection:
            await connection.execute("update wallets set balance = balance + 5 where wallet_id = 'alice'")
        await monitor.check_all()
        found = await status_becomes(api, "broken")
        text = (await api.get("/metrics")).body.decode()
    faults = {fault["check"]: fault for fault in found["faults"]}
    assert faults.keys() == {"conservation", "balance"}
    assert faults["balance"]["row"] == "wallet alice"
    assert faults["balance"]["expected"].startswith("balance 35.0000")
    assert "wallet verify" in faults["balance"]["detail"]
    assert 'wallet_integrity_faults{check="balance",invariant="I2"} 1.0' in text
    assert 'wallet_integrity_faults{check="versions",invariant="I3"} 0.0' in text
    assert "wallet_integrity_status 2.0" in text


async def test_what_waits_is_behind_and_each_says_what_to_do(books_url: str) -> None:
    async with running_api(books_url) as api, hand_monitor(books_url) as monitor:
        await monitor.check_all()
        async with as_owner(books_url) as connection:
            await connection.execute(
                """update events set occurred_at = now() - interval '90 seconds' where wallet_id = 'frank';
                update transfers set status = 'debited', updated_at = now() - interval '61 seconds'
                where request_id = 't2';
                insert into dead_letters (body, body_sha256, headers, kind, error, attempts, history, created_at,
                    updated_at) values ('x', 'x', '{}', 'failed', 'test', 3, '[]', now(), now())"""
            )
        found = await status_becomes(api, "behind")
        metrics = await metrics_of(api)
    details = {warning["name"]: warning["detail"] for warning in found["warnings"]}
    assert details.keys() == {"relay", "transfers", "deadLetters"}
    assert "Is a relay running" in details["relay"]
    assert "of wallet alice" in details["transfers"]
    assert "wallet dlq" in details["deadLetters"]
    assert found["transfers"]["stuck"] == metrics["wallet_transfers_stuck"] == 1
    assert found["deadLettersOpen"] == metrics["wallet_dead_letters_open"] == 1
    assert found["oldestUnsealedSeconds"] >= 90
    assert metrics["wallet_oldest_unsealed_seconds"] >= 90
    assert found["oldestUnpublishedSeconds"] >= 90
    assert metrics["wallet_oldest_unpublished_seconds"] >= 90


async def test_a_monitor_that_has_stopped_is_reported_by_the_ages(books_url: str) -> None:
    async with once_checked_api(books_url) as api:
        async with as_owner(books_url) as connection:
            for field, ago in (("looked,taken_at", "95 seconds"), ("due_at", "20 minutes")):
                await connection.execute(
                    f"update auditor set state = jsonb_set(state, '{{{field}}}', to_jsonb(now() - interval '{ago}'))"
                )
        found = await status_becomes(api, "behind")
        assert found["incremental"]["ageSeconds"] >= 95
        assert [warning["name"] for warning in found["warnings"]] == ["monitor", "fullPass"]
        assert "The last check was 9" in found["warnings"][0]["detail"]
        assert "should have continued 120" in found["warnings"][1]["detail"]


async def test_a_full_pass_that_is_old_is_reported_though_its_next_slice_is_not_overdue(books_url: str) -> None:
    async with once_checked_api(books_url) as api:
        async with as_owner(books_url) as connection:
            await connection.execute(
                """update auditor set state = jsonb_set(jsonb_set(state,
                '{passed,begun_at}', to_jsonb(now() - interval '1000 seconds')),
                '{passed,ended_at}', to_jsonb(now() - interval '999 seconds'))"""
            )
        found = await status_becomes(api, "behind")
    assert [warning["name"] for warning in found["warnings"]] == ["fullPass"]
    assert "began 100" in found["warnings"][0]["detail"]


async def test_callers_share_one_read_of_a_silent_database_and_its_failure(
    books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_module, "CACHED_SECONDS", 0.0)
    async with Proxy.to_server_of(books_url) as proxy, running_api(proxy.url_of(books_url)) as api:
        assert (await api.get("/integrity")).status == 200
        proxy.silence()
        begun = time.monotonic()
        answers = await asyncio.gather(*(api.get("/integrity") for _ in range(10)))
        assert {answer.status for answer in answers} == {503}
        assert time.monotonic() - begun < report_module.READ_SECONDS_MAX + 1


async def test_a_worker_that_is_behind_is_reported_in_events_and_seconds(books_url: str) -> None:
    async with running_api(books_url) as api, hand_monitor(books_url) as monitor:
        await monitor.check_all()
        async with as_owner(books_url) as connection:
            await connection.execute(
                "update events set occurred_at = now() - interval '2 hours' where wallet_id = 'frank' and version = 1"
            )
        await seal_all(books_url)
        await monitor.check_new()

        async def is_reported() -> bool:
            found = await integrity_of(api)
            assert found["worker"]["lagEvents"] == 2
            assert found["worker"]["lagSeconds"] >= 7200
            details = {warning["name"]: warning["detail"] for warning in found["warnings"]}
            assert details["worker"].startswith("2 published events had no effect yet")
            return True

        await eventually(is_reported)


async def test_without_a_running_monitor_each_request_counts_the_workers_lag(books_url: str) -> None:
    async with running_api(books_url) as api:
        async with hand_monitor(books_url) as monitor:
            await seal_all(books_url)
            await process_all(books_url)
            await monitor.check_all()
        async with as_owner(books_url) as connection:
            await connection.execute(
                """delete from processed_events where event_id in (
                    select event_id from events join journal using (batch_id) order by position desc, ordinal limit 2);
                update worker_checkpoint set position = 0;
                update auditor set state = jsonb_set(jsonb_set(state, '{looked,lag,position}', '1'),
                    '{looked,taken_at}', to_jsonb(now() - interval '95 seconds'));
                update events set occurred_at = occurred_at - interval '1 hour'"""
            )

        async def is_reported() -> bool:
            found = await integrity_of(api)
            assert found["worker"]["lagEvents"] == 2
            assert found["worker"]["lagSeconds"] >= 3600
            assert [warning["name"] for warning in found["warnings"]] == ["monitor", "worker"]
            metrics = await metrics_of(api)
            assert metrics["wallet_worker_lag_events"] == 2
            assert metrics["wallet_worker_lag_seconds"] >= 3600
            return True

        await eventually(is_reported)


async def test_without_the_database_it_is_a_503_and_metrics_go_on_without_it(
    own_postgres_server: PostgresServer,
) -> None:
    url = own_postgres_server.create_database()
    async with running_api(url) as api:
        await status_becomes(api, "starting")
        assert (await metrics_of(api))["wallet_integrity_status"] == -1
        await asyncio.to_thread(own_postgres_server.stop)

        async def is_away() -> bool:
            answer = await api.get("/integrity")
            assert answer.status == 503
            assert answer.json["code"] == "unavailable"
            assert "wallet_integrity_status" not in await metrics_of(api)
            return True

        await eventually(is_away)


async def test_a_database_of_an_earlier_version_is_a_503_and_metrics_go_on(empty_database_url: str) -> None:
    async with running_api(empty_database_url) as api:
        assert (await api.get("/integrity")).status == 503
        assert "wallet_api_processes" in await metrics_of(api)


async def test_a_full_check_of_an_earlier_version_does_not_make_it_clean(books_url: str) -> None:
    async with once_checked_api(books_url) as api:
        async with as_owner(books_url) as connection:
            await connection.execute("update auditor set state = state #- '{passed,tallies,TRAIL}'")
        found = await status_becomes(api, "starting")
        assert "not everything has been checked once" in found["summary"]


async def test_a_clock_that_was_put_back_hides_neither_a_check_that_stopped_nor_events_that_wait(
    books_url: str,
) -> None:
    async with once_checked_api(books_url) as api:
        async with running_ledger(books_url) as ledger:
            await send(ledger, deposit("alice", 1))
        async with as_owner(books_url) as connection:
            await connection.execute(
                """update auditor
                set state = jsonb_set(state, '{looked,taken_at}', to_jsonb(now() + interval '1 hour'));
                update events set occurred_at = occurred_at + interval '1 hour'"""
            )
        found = await status_becomes(api, "behind")
        assert [warning["name"] for warning in found["warnings"]] == ["monitor", "relay"]
        assert "put back" in found["warnings"][0]["detail"]


async def test_money_in_flight_is_part_of_what_is_under_way(database_url: str) -> None:
    async with running_ledger(database_url, is_stepwise=True) as ledger:
        await send(ledger, deposit("alice", 5))
        configure_failpoints("saga.after_debit=raise")
        with pytest.raises(OutcomeUnknown):
            await send(ledger, transfer("alice", "bob", 5))
        configure_failpoints("")
    await seal_all(database_url)
    await process_all(database_url)
    async with running_api(database_url) as api:
        async with hand_monitor(database_url) as monitor:
            await monitor.check_all()

        async def names_it() -> bool:
            return "transfers of 5.0000 to be finished" in (await integrity_of(api))["summary"]

        await eventually(names_it)
