"""The embedded transport: the journal in order, one worker at a time, the checkpoint with the effects."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.database import execute, fetch_rows, fetch_value
from tests.support.event_log import Log
from tests.support.verification import as_owner
from tests.support.worker import Wire, has_logged, is_drained, projections_match, until
from wallet.postgres.lease import LeaseTable
from wallet.runtime.failpoints import configure_failpoints

STEAL = """
update worker_checkpoint set token = token + 1, holder = 'another', lease_until = now() + interval '1 hour'
returning position
"""
HOLD = "update worker_checkpoint set holder = 'another', lease_until = now() + interval '3 seconds'"
UNPUBLISH = "update journal set published_at = null"
GIVE_BACK = "update worker_checkpoint set lease_until = '-infinity' returning position"


@pytest.fixture
def wire(database_url: str) -> Wire:
    """The journal of a fresh database."""
    return Wire(database_url, None)


@pytest.fixture(autouse=True)
def no_failpoints() -> Iterator[None]:
    """Switches off what a test switched on."""
    yield
    configure_failpoints("")


async def checkpoint(database_url: str) -> Any:
    return await fetch_value(database_url, "select position from worker_checkpoint")


async def is_at(database_url: str, position: int) -> bool:
    assert await checkpoint(database_url) == position
    return True


async def has_followed(database_url: str, position: int, followed_position: int) -> bool:
    query = "select position, followed_position from worker_checkpoint"
    assert [tuple(row) for row in await fetch_rows(database_url, query)] == [(position, followed_position)]
    return True


async def is_lease_held(database_url: str) -> bool:
    return bool(await fetch_rows(database_url, "select from worker_checkpoint where lease_until > now()"))


async def has_handled(database_url: str, count: int) -> bool:
    return len(await fetch_rows(database_url, "select event_id from processed_events")) >= count


async def test_a_batch_of_thousands_is_handled_in_pieces_and_the_checkpoint_moves_when_it_is_whole(wire: Wire) -> None:
    async with Log.open(wire.database_url) as log:
        log.deposit("alice", 1)
        await log.commit()
        for number in range(2_500):
            log.deposit(f"wallet-{number % 50}", 1)
        await log.commit()
        configure_failpoints("worker.before_commit=delay:60000@4")
        async with wire.worker() as crashing:
            await until(has_handled, wire.database_url, 402)
            crashing.cancel()
        configure_failpoints("")
        assert await checkpoint(wire.database_url) == 1
        async with wire.worker():
            await wire.matches(log.rows)
            await until(is_at, wire.database_url, 2)


async def test_many_small_batches_share_a_group(wire: Wire) -> None:
    async with Log.open(wire.database_url) as log:
        for number in range(700):
            log.deposit(f"wallet-{number % 9}", 1)
            await log.commit()
        with capture_logs() as lines:
            async with wire.worker():
                await wire.matches(log.rows)
                await until(is_at, wire.database_url, 700)
    groups = [line["count"] for line in lines if line["event"] == "group_handled"]
    assert max(groups) == 200
    assert len(groups) < 20


async def test_a_batch_without_events_is_passed(wire: Wire) -> None:
    async with Log.open(wire.database_url) as log, wire.worker():
        await log.commit()
        log.deposit("alice", 1)
        await log.commit()
        await log.commit()
        await until(is_at, wire.database_url, 3)
        assert await projections_match(wire.database_url, log.rows)


async def test_a_batch_whose_events_are_not_all_visible_waits_and_so_do_those_behind_it(wire: Wire) -> None:
    async with Log.open(wire.database_url) as log, wire.worker():
        log.deposit("alice", 1)
        first = await log.commit()
        log.deposit("bob", 1)
        torn = await log.commit(keep=1)
        torn_batch = log.batch_id
        log.deposit("carol", 1)
        await log.commit()
        await until(is_at, wire.database_url, 1)
        await wire.matches(first)
        await log.insert_events(torn[1:], torn_batch, first_ordinal=1)
        await wire.matches(log.rows)
        await until(is_at, wire.database_url, 3)


async def test_a_batch_that_is_not_sealed_is_not_read(wire: Wire) -> None:
    async with Log.open(wire.database_url) as log:
        log.deposit("alice", 1)
        first = await log.commit()
        log.deposit("bob", 1)
        await log.commit(sealed=False)
        async with wire.worker():
            await wire.matches(first)
            await until(is_at, wire.database_url, 1)
        assert await projections_match(wire.database_url, first)


async def test_when_the_active_worker_stops_another_takes_over_at_once(wire: Wire) -> None:
    async with Log.open(wire.database_url) as log:
        with capture_logs() as lines:
            async with wire.worker():
                await until(has_logged, lines, "journal_lease_taken")
                async with wire.worker():
                    log.deposit("alice", 1)
                    await log.commit()
                    await wire.matches(log.rows)
            async with wire.worker():
                log.deposit("alice", 1)
                await log.commit()
                await wire.matches(log.rows)
    taken = [line["token"] for line in lines if line["event"] == "journal_lease_taken"]
    assert taken == [1, 2]


async def test_a_worker_whose_lease_was_taken_commits_nothing_more(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    # As long as the other one's lease, which so is one that may be.
    monkeypatch.setattr("wallet.worker.journal.CHECKPOINT", LeaseTable("worker_checkpoint", timedelta(hours=1)))
    async with Log.open(wire.database_url) as log, wire.worker():
        log.deposit("alice", 1)
        first = await log.commit()
        await wire.matches(first)
        with capture_logs() as lines:
            await execute(wire.database_url, STEAL)
            log.deposit("alice", 1)
            await log.commit()
            await until(has_logged, lines, "worker_paused")
        assert "LeaseLost" in next(line["reason"] for line in lines if line["event"] == "worker_paused")
        assert await projections_match(wire.database_url, first)
        await execute(wire.database_url, GIVE_BACK)
        await wire.matches(log.rows)


async def test_beside_a_queue_only_what_no_broker_confirmed_is_handled_from_the_journal(
    database_url: str, rabbitmq_url: str
) -> None:
    wire = Wire(database_url, rabbitmq_url)
    async with Log.open(database_url) as log:
        log.deposit("alice", 1)
        first = await log.commit(confirmed=False)
        log.deposit("alice", 1)
        confirmed = await log.commit()
        log.deposit("alice", 1)
        last = await log.commit(confirmed=False)
        with capture_logs() as lines:
            async with wire.worker():
                await wire.matches([*first, *last])
                await until(has_followed, database_url, 1, 3)
                await wire.deliver(confirmed)
                await wire.matches(log.rows)
    warnings = [line["position"] for line in lines if line["event"] == "journal_has_events_without_broker"]
    assert warnings == [1]
    from_journal = [line["position"] for line in lines if line["event"] == "group_handled" and "position" in line]
    assert from_journal == [1, 3]
    assert await is_drained(rabbitmq_url)


async def test_a_long_history_of_the_broker_is_passed_over_once(
    database_url: str, rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wallet.worker.journal.PASSED_MAX", 7)
    monkeypatch.setattr("wallet.worker.journal.PASSED_MAX", 7)
    wire = Wire(database_url, rabbitmq_url)
    async with Log.open(database_url) as log:
        for _ in range(50):
            await log.commit()
        log.deposit("alice", 1)
        await log.commit(confirmed=False)
        async with wire.worker():
            await wire.matches(log.rows)
            await until(has_followed, database_url, 0, 51)
        with capture_logs() as lines:
            async with wire.worker():
                await until(has_logged, lines, "journal_lease_taken")
    assert [line["position"] for line in lines if line["event"] == "journal_lease_taken"] == [51]


async def test_what_was_passed_over_is_handled_when_a_worker_without_a_broker_takes_over(
    database_url: str, rabbitmq_url: str
) -> None:
    with_broker, embedded = Wire(database_url, rabbitmq_url), Wire(database_url, None)
    async with Log.open(database_url) as log:
        log.deposit("alice", 1)
        await log.commit()
        log.deposit("bob", 1)
        bobs = await log.commit(confirmed=False)
        async with with_broker.worker():
            await until(has_followed, database_url, 0, 2)
            assert await projections_match(database_url, bobs)
        async with embedded.worker():
            await embedded.matches(log.rows)
            await until(has_followed, database_url, 2, 2)


async def test_a_batch_that_is_not_published_is_waited_for_however_it_is_published_then(
    database_url: str, rabbitmq_url: str
) -> None:
    wire = Wire(database_url, rabbitmq_url)
    async with Log.open(database_url) as log:
        log.deposit("alice", 1)
        await log.commit(confirmed=False)
        async with as_owner(database_url) as owner:
            await owner.execute(UNPUBLISH)
        log.deposit("bob", 1)
        await log.commit(confirmed=False)
        async with wire.worker():
            await until(is_lease_held, database_url)
            await execute(database_url, "update journal set published_at = sealed_at where position = 1")
            await wire.matches(log.rows)


async def test_a_worker_that_stands_by_logs_once_who_holds_the_lease(wire: Wire) -> None:
    with capture_logs() as lines:
        await execute(wire.database_url, HOLD)
        async with wire.worker():
            await until(has_logged, lines, "journal_lease_taken")
    waits = [line for line in lines if line["event"] == "journal_stands_by"]
    assert [(line["holder"], line["log_level"]) for line in waits] == [("another", "info")]


async def test_a_lease_that_ends_later_than_a_lease_can_last_has_ended(wire: Wire) -> None:
    async with Log.open(wire.database_url) as log:
        log.deposit("alice", 1)
        await log.commit()
        await execute(wire.database_url, STEAL)
        async with wire.worker():
            await wire.matches(log.rows)
    assert await fetch_value(wire.database_url, "select token from worker_checkpoint") == 2
