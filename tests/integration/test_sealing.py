"""Sealing and the lease: every committed batch gets its place, in a safe order, from one relay at a time."""

import asyncio
import functools
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.database import connected
from tests.support.postgres import PostgresServer
from tests.support.relay import (
    STOP_SECONDS_MAX,
    assert_journal_is_chained,
    count_where,
    relay_settings,
    running_relay,
    sealed_rows,
)
from tests.support.unsealed_batches import insert_batch
from tests.support.verification import as_owner
from tests.support.waiting import eventually
from wallet.postgres.connections import Connection
from wallet.postgres.lease import Lease, LeaseLost
from wallet.relay import leadership as term_module
from wallet.relay import seal as seal_module
from wallet.relay.leadership import Leadership
from wallet.relay.lease import JOURNAL
from wallet.relay.publish import mark_published
from wallet.relay.relay import run_relay
from wallet.relay.seal import FILENAME, seal_batches
from wallet.runtime.metrics import Metrics


async def test_batches_are_sealed_in_order_of_seq_without_gaps_and_chained(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal_module, "BATCHES_MAX", 3)
    async with connected(database_url) as connection:
        batches = [await insert_batch(connection, number % 3) for number in range(8)]
        lease = await JOURNAL.take(connection, "test")
        assert lease is not None
        assert [await seal_batches(connection, lease, is_published=False) for _ in range(4)] == [3, 3, 2, 0]
        rows = await sealed_rows(connection)
        assert [row["batch_id"] for row in rows] == [batch.batch_id for batch in batches]
        assert all(row["sealed_at"] is not None and row["published_at"] is None for row in rows)
        await assert_journal_is_chained(connection)


async def test_a_late_committer_gets_a_later_position_and_is_not_skipped(database_url: str) -> None:
    async with connected(database_url) as slow, connected(database_url) as fast:
        lease = await JOURNAL.take(fast, "test")
        assert lease is not None
        async with slow.transaction():
            late = await insert_batch(slow)
            early = await insert_batch(fast)
            await seal_batches(fast, lease, is_published=False)
        await seal_batches(fast, lease, is_published=False)
        rows = await sealed_rows(fast)
        assert [row["batch_id"] for row in rows] == [early.batch_id, late.batch_id]
        assert rows[0]["seq"] > rows[1]["seq"]
        await assert_journal_is_chained(fast)


async def test_only_one_relay_can_take_the_lease(database_url: str) -> None:
    async with connected(database_url) as first, connected(database_url) as second:
        taken = await asyncio.gather(JOURNAL.take(first, "first"), JOURNAL.take(second, "second"))
        assert len([lease for lease in taken if lease is not None]) == 1


async def test_a_zombie_can_neither_seal_nor_mark_nor_renew_nor_release(database_url: str) -> None:
    async with connected(database_url) as connection:
        zombie = await JOURNAL.take(connection, "zombie")
        assert zombie is not None
        batch = await insert_batch(connection)
        await seal_batches(connection, zombie, is_published=False)
        await _let_the_lease_expire(connection)
        leader = await JOURNAL.take(connection, "leader")
        assert leader is not None
        assert leader.token > zombie.token
        await insert_batch(connection)
        with pytest.raises(LeaseLost):
            await seal_batches(connection, zombie, is_published=False)
        with pytest.raises(LeaseLost):
            await mark_published(connection, zombie, [batch.batch_id])
        with pytest.raises(LeaseLost):
            await zombie.renew(connection)
        await zombie.release(connection)
        assert await JOURNAL.take(connection, "third") is None
        assert await count_where(connection, "position is null") == 1
        assert await count_where(connection, "published_at is not null") == 0
        assert await seal_batches(connection, leader, is_published=False) == 1


async def test_what_a_broker_confirmed_is_published_later_than_it_was_sealed_whatever_the_clock_says(
    database_url: str,
) -> None:
    """A worker with a broker decides by this which batches the queue will not deliver."""
    async with connected(database_url) as connection:
        lease = await JOURNAL.take(connection, "test")
        assert lease is not None
        batch = await insert_batch(connection)
        await seal_batches(connection, lease, is_published=False)
        # As after the clock was put back by an hour.
        async with as_owner(database_url) as owner:
            await owner.execute("update journal set sealed_at = sealed_at + interval '1 hour'")
        await mark_published(connection, lease, [batch.batch_id])
        assert await count_where(connection, "published_at > sealed_at") == 1


async def test_a_relay_whose_lease_ran_out_untaken_is_still_the_leader(database_url: str) -> None:
    async with connected(database_url) as connection:
        lease = await JOURNAL.take(connection, "test")
        assert lease is not None
        await _let_the_lease_expire(connection)
        await insert_batch(connection)
        assert await seal_batches(connection, lease, is_published=False) == 1
        await lease.renew(connection)
        assert await JOURNAL.take(connection, "other") is None


async def test_a_standby_takes_over_at_once_when_the_leader_stops(database_url: str, tmp_path: Path) -> None:
    settings = relay_settings(database_url, None, tmp_path)
    async with connected(database_url) as connection:
        async with running_relay(settings):
            await eventually(lambda: _holder(connection))
            async with running_relay(settings):
                await insert_batch(connection)
                await eventually(lambda: count_where(connection, "position = 1"))
            await insert_batch(connection)
            await eventually(lambda: count_where(connection, "position = 2"))
        assert await _holder(connection) is None
        async with running_relay(settings):
            await insert_batch(connection)
            await eventually(lambda: count_where(connection, "position = 3"), within=2)
        await assert_journal_is_chained(connection)


async def test_a_standby_takes_over_from_a_leader_that_vanished(database_url: str, tmp_path: Path) -> None:
    async with connected(database_url) as connection:
        assert await JOURNAL.take(connection, "vanished") is not None
        await insert_batch(connection)
        async with running_relay(relay_settings(database_url, None, tmp_path)):
            await eventually(lambda: count_where(connection, "position = 1"))


async def test_a_relay_that_loses_its_lease_stands_by(database_url: str, tmp_path: Path) -> None:
    async with connected(database_url) as connection:
        with capture_logs() as logs:
            async with running_relay(relay_settings(database_url, None, tmp_path)):
                await eventually(lambda: _holder(connection))
                usurper = await eventually(lambda: _take_by_force(connection))
                await eventually(lambda: "lease_lost" in [log["event"] for log in logs])
                await insert_batch(connection)
                assert await count_where(connection, "position is not null") == 0
                await usurper.release(connection)
                await eventually(lambda: count_where(connection, "position = 1"))


async def test_two_relays_and_many_writers_leave_one_gapless_chain(database_url: str, tmp_path: Path) -> None:
    settings = relay_settings(database_url, None, tmp_path)

    async def write() -> None:
        async with connected(database_url) as connection:
            for _ in range(25):
                async with connection.transaction():
                    await insert_batch(connection)
                    # The row has its seq; others draw theirs and commit before this one does.
                    await connection.fetchval("select count(*) from events")

    async with connected(database_url) as connection:
        async with running_relay(settings), running_relay(settings):
            await asyncio.gather(*(write() for _ in range(8)))
            await eventually(lambda: _is_count(connection, "position is not null", 200))
        await assert_journal_is_chained(connection)


async def test_without_a_broker_a_sealed_batch_is_a_published_one(database_url: str, tmp_path: Path) -> None:
    async with connected(database_url) as connection:
        lease = await JOURNAL.take(connection, "test")
        assert lease is not None
        await insert_batch(connection)
        await seal_batches(connection, lease, is_published=False)
        await lease.release(connection)
        assert await count_where(connection, "published_at is null") == 1
        async with running_relay(relay_settings(database_url, None, tmp_path)):
            await insert_batch(connection)
            await eventually(lambda: _is_count(connection, "published_at = sealed_at", 2))


async def test_the_relay_outlives_an_outage_of_the_database(
    own_postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = own_postgres_server.create_database()
    with capture_logs() as logs:
        async with running_relay(relay_settings(url, None, tmp_path)) as relay:
            async with connected(url) as connection:
                await insert_batch(connection)
                await eventually(lambda: count_where(connection, "position = 1"))
            await asyncio.to_thread(own_postgres_server.stop)
            await eventually(lambda: "database_unavailable" in [log["event"] for log in logs])
            await asyncio.to_thread(own_postgres_server.start)
            async with connected(url) as connection:
                await insert_batch(connection)
                await eventually(lambda: count_where(connection, "position = 2"))
            assert not relay.done()
    assert "relay_failed" not in [log["event"] for log in logs]


async def test_the_relay_outlives_the_loss_of_its_sessions(database_url: str, tmp_path: Path) -> None:
    async with connected(database_url) as connection:
        with capture_logs() as logs:
            async with running_relay(relay_settings(database_url, None, tmp_path)):
                for position in range(1, 31):
                    await insert_batch(connection)
                    await eventually(functools.partial(count_where, connection, f"position = {position}"))
                    # Whether a session is idle or busy when its end arrives decides which error the driver raises.
                    await connection.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'wallet %'"
                    )
        await assert_journal_is_chained(connection)
    assert "relay_failed" not in [log["event"] for log in logs]


async def test_the_relay_may_start_before_its_database(own_postgres_server: PostgresServer, tmp_path: Path) -> None:
    url = own_postgres_server.create_database()
    await asyncio.to_thread(own_postgres_server.stop)
    with capture_logs() as logs:
        async with running_relay(relay_settings(url, None, tmp_path)):
            await eventually(lambda: "database_unavailable" in [log["event"] for log in logs])
            await asyncio.to_thread(own_postgres_server.start)
            async with connected(url) as connection:
                await insert_batch(connection)
                await eventually(lambda: count_where(connection, "position = 1"))


async def test_at_stop_the_head_is_in_the_heads_file(database_url: str, tmp_path: Path) -> None:
    settings = relay_settings(database_url, None, tmp_path / "logs")
    async with connected(database_url) as connection:
        for position in (1, 2):
            async with running_relay(settings):
                await insert_batch(connection)
                await eventually(functools.partial(count_where, connection, f"position = {position}"))
        rows = await sealed_rows(connection)
    assert (tmp_path / "logs" / FILENAME).stat().st_mode & 0o777 == 0o640
    lines = (tmp_path / "logs" / FILENAME).read_text().splitlines()
    assert [line.split(" ")[:2] for line in lines] == [[str(row["position"]), row["chain"].hex()] for row in rows]
    assert all(datetime.fromisoformat(line.split(" ")[2]).tzinfo is UTC for line in lines)


async def test_the_head_that_is_exported_at_stop_covers_what_was_committed_just_before(
    database_url: str, tmp_path: Path
) -> None:
    async with connected(database_url) as connection:
        lease = await JOURNAL.take(connection, "test")
        assert lease is not None
        batch = await insert_batch(connection)
        stop = asyncio.Event()
        stop.set()
        await Leadership(relay_settings(database_url, None, tmp_path), Metrics("relay"), stop, lease).lead()
        assert [row["batch_id"] for row in await sealed_rows(connection)] == [batch.batch_id]
    assert (tmp_path / FILENAME).read_text().startswith("1 ")


async def test_a_relay_that_is_stopped_as_soon_as_it_leads_exports_the_head_of_all_that_is_committed(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop comes between taking the lease and the first round of sealing."""
    stop = asyncio.Event()
    lead = term_module.Leadership.lead

    async def lead_after_the_stop(term: term_module.Leadership) -> None:
        stop.set()
        await lead(term)

    monkeypatch.setattr(term_module.Leadership, "lead", lead_after_the_stop)
    async with connected(database_url) as connection:
        await insert_batch(connection)
        async with asyncio.timeout(STOP_SECONDS_MAX):
            await run_relay(relay_settings(database_url, None, tmp_path), Metrics("relay"), stop)
        [row] = await sealed_rows(connection)
        assert await _holder(connection) is None
    [line] = (tmp_path / FILENAME).read_text().splitlines()
    assert line.startswith(f"1 {row['chain'].hex()} ")


async def test_a_relay_that_stands_by_logs_once_who_holds_the_lease(database_url: str, tmp_path: Path) -> None:
    settings = relay_settings(database_url, None, tmp_path)
    async with connected(database_url) as connection:
        assert await JOURNAL.take(connection, "another") is not None
        with capture_logs() as logs:
            async with running_relay(settings):
                await eventually(lambda: "lease_taken" in [log["event"] for log in logs])
    [waits] = [log for log in logs if log["event"] == "relay_stands_by"]
    assert (waits["holder"], waits["log_level"]) == ("another", "info")
    assert datetime.fromisoformat(waits["until"]).tzinfo is not None


async def test_a_lease_that_ends_later_than_a_lease_can_last_has_ended(database_url: str, tmp_path: Path) -> None:
    """As after the clock was put back by an hour."""
    async with connected(database_url) as connection:
        before = await JOURNAL.take(connection, "before")
        assert before is not None
        await connection.execute("update journal_head set lease_until = lease_until + interval '1 hour'")
        async with running_relay(relay_settings(database_url, None, tmp_path)):
            await insert_batch(connection)
            await eventually(lambda: count_where(connection, "position = 1"))
        await insert_batch(connection)
        with pytest.raises(LeaseLost):
            await seal_batches(connection, before, is_published=True)


async def test_while_it_leads_the_relay_exports_heads(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(term_module, "EXPORT_SECONDS", 0.05)
    async with running_relay(relay_settings(database_url, None, tmp_path)):
        await eventually(lambda: (tmp_path / FILENAME).exists() and (tmp_path / FILENAME).read_text().count("\n") > 1)


async def test_a_heads_file_that_cannot_be_written_does_not_stop_the_relay(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(term_module, "EXPORT_SECONDS", 0.05)
    (tmp_path / "logs").write_text("a file where a directory is wanted")
    async with connected(database_url) as connection:
        with capture_logs() as logs:
            async with running_relay(relay_settings(database_url, None, tmp_path / "logs")):
                await eventually(lambda: "journal_head_not_exported" in [log["event"] for log in logs])
                await insert_batch(connection)
                await eventually(lambda: count_where(connection, "position = 1"))


async def _let_the_lease_expire(connection: Connection) -> None:
    await connection.execute("update journal_head set lease_until = lease_until - interval '1 minute'")


async def _take_by_force(connection: Connection) -> Lease | None:
    """Take the lease as another relay does after a long pause of its holder; None if the holder was faster."""
    await _let_the_lease_expire(connection)
    return await JOURNAL.take(connection, "usurper")


async def _holder(connection: Connection) -> str | None:
    holder = await connection.fetchval("select holder from journal_head")
    assert holder is None or isinstance(holder, str)
    return holder


async def _is_count(connection: Connection, condition: str, count: int) -> bool:
    return await count_where(connection, condition) == count
