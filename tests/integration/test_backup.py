"""A dump is one moment of a live system, a restored copy is as good as the original, and the heads distinguish them."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from tests.support.backup import dump, restore
from tests.support.books import assert_books_are_right, assert_pipeline_is_quiet_and_right
from tests.support.database import connected, fetch_rows
from tests.support.ledger import deposit, running_ledger, send
from tests.support.live_load import load_on
from tests.support.postgres import PostgresServer
from tests.support.relay import export_journal_head, relay_settings, running_relay
from tests.support.verification import faults_of, proof_of
from tests.support.waiting import eventually
from tests.support.worker import RULES, running_worker
from tests.support.written_books import LAST_POSITION, process_all, seal_all
from wallet.integrity.checks.heads import ExportedHeads
from wallet.integrity.findings import Check
from wallet.postgres.migrations import missing_migrations
from wallet.relay.seal import FILENAME
from wallet.worker.rebuild import rebuild

GUARDS = """
select t.tgrelid::regclass::text as on_what, pg_get_triggerdef(t.oid) as guard from pg_trigger t
    where not t.tgisinternal
union all
select c.conrelid::regclass::text, pg_get_constraintdef(c.oid) from pg_constraint c where c.conrelid <> 0
union all
select i.indrelid::regclass::text, pg_get_indexdef(i.indexrelid) from pg_index i
    join pg_class c on c.oid = i.indrelid where c.relnamespace = 'public'::regnamespace
order by 1, 2
"""
Copied = Callable[[str], str]


@pytest.fixture
def copied(postgres_server: PostgresServer, tmp_path: Path) -> Copied:
    """Dumps a database and restores it elsewhere; returns where."""

    def copy(url: str) -> str:
        dump(url, tmp_path / "dump")
        elsewhere = postgres_server.create_database(migrated=False)
        restore(elsewhere, tmp_path / "dump")
        return elsewhere

    return copy


async def exported(url: str, directory: Path) -> Path:
    """Seal everything and append the head to the relay's file."""
    await seal_all(url)
    return await export_journal_head(url, directory)


async def test_a_dump_of_a_system_at_work_is_one_clean_moment_of_it(
    database_url: str, copied: Copied, tmp_path: Path, seed: int
) -> None:
    settings = relay_settings(database_url, None, tmp_path)
    async with (
        running_relay(settings),
        running_worker(database_url, None),
        running_ledger(database_url) as ledger,
        load_on(ledger, seed=seed),
    ):
        await eventually(lambda: was_sealed(database_url))
        elsewhere = await asyncio.to_thread(copied, database_url)
        await send(ledger, deposit("alice", 1))
    assert await faults_of(elsewhere, tmp_path / FILENAME) != {}, "the heads go further than the dump"
    assert await faults_of(elsewhere) == {}
    await assert_books_are_right(elsewhere)
    async with running_relay(relay_settings(elsewhere, None, tmp_path / "new")), running_worker(elsewhere, None):
        await assert_pipeline_is_quiet_and_right(elsewhere)


async def was_sealed(url: str) -> bool:
    return bool(await fetch_rows(url, "select from journal where position > 100"))


async def test_a_restored_copy_has_every_guard_and_goes_on_where_the_original_was(
    books_url: str, copied: Copied
) -> None:
    elsewhere = copied(books_url)
    assert await fetch_rows(elsewhere, GUARDS) == await fetch_rows(books_url, GUARDS)
    async with connected(elsewhere) as connection:
        assert await missing_migrations(connection) == []
        for change in ("update events set amount = 1", "delete from operations", "truncate journal"):
            with pytest.raises(asyncpg.RestrictViolationError, match="is refused"):
                await connection.execute(change)
        seq_max = await connection.fetchval("select max(seq) from journal")
        async with running_ledger(elsewhere) as ledger:
            assert (await send(ledger, deposit("alice", 100, "a1"))).replayed
            assert not (await send(ledger, deposit("alice", 100, "a4"))).replayed
        assert await connection.fetchval("select max(seq) from journal") > seq_max
    await seal_all(elsewhere)
    await process_all(elsewhere)
    assert await faults_of(elsewhere) == {}


async def test_an_older_backup_is_recognized_by_its_end_and_a_history_that_went_on_from_it_by_its_fork(
    books_url: str, copied: Copied, tmp_path: Path
) -> None:
    await exported(books_url, tmp_path)
    elsewhere = copied(books_url)
    end = LAST_POSITION + 2
    async with running_ledger(books_url) as ledger:
        for key in ("lost-1", "lost-2"):
            await send(ledger, deposit("alice", 5, key))
    heads = await exported(books_url, tmp_path)
    assert await faults_of(elsewhere) == {}
    assert f"the journal ends at {end}, its tail was cut off (or this is an older copy)" in await fork(elsewhere, heads)

    async with running_ledger(elsewhere) as ledger:
        assert not (await send(ledger, deposit("alice", 5, "lost-1"))).replayed
        await send(ledger, deposit("alice", 7, "another"))
    await exported(elsewhere, tmp_path / "new")
    assert f"history was rewritten at positions {end + 1} to {end + 2}" in await fork(elsewhere, heads)

    # The relay's own file would say so for ever; what still holds of it, and what comes after, is clean.
    (tmp_path / "kept").mkdir()
    kept = tmp_path / "kept" / FILENAME
    kept.write_text("".join(line for line in heads.read_text().splitlines(True) if int(line.split()[0]) <= end))
    await exported(elsewhere, tmp_path / "kept")
    assert await faults_of(elsewhere, kept) == {}
    assert [head.position for head in ExportedHeads.of(kept)] == [end, end + 2]


async def fork(url: str, heads: Path) -> str:
    """What the heads find, and nothing else does."""
    faults = await faults_of(url, heads)
    assert faults.keys() == {Check.HEADS}
    first = faults[Check.HEADS].first
    assert first is not None
    return first.found


async def test_what_was_consumed_after_the_dump_is_in_no_total_until_a_rebuild(
    database_url: str, copied: Copied
) -> None:
    async with running_ledger(database_url) as ledger:
        await send(ledger, deposit("alice", 100))
    await seal_all(database_url)
    elsewhere = copied(database_url)
    # The broker has given its messages away by now; nobody publishes a second time what is marked as published.
    totals = "select total_deposited::integer from wallet_stats"
    assert await fetch_rows(elsewhere, totals) == []
    assert (await proof_of(elsewhere)).is_clean
    await rebuild(elsewhere, RULES)
    assert [tuple(row) for row in await fetch_rows(elsewhere, totals)] == [(100,)]
    assert (await proof_of(elsewhere)).is_clean


async def test_messages_of_lost_events_that_the_broker_still_has_count_nowhere(
    database_url: str, rabbitmq_url: str, copied: Copied, tmp_path: Path
) -> None:
    async with running_ledger(database_url) as ledger:
        await send(ledger, deposit("alice", 100))
        elsewhere = copied(database_url)
        await send(ledger, deposit("alice", 7, "lost"))
    async with running_relay(relay_settings(database_url, rabbitmq_url, tmp_path / "old")):
        await eventually(lambda: is_published(database_url))
    async with running_ledger(elsewhere) as ledger:
        await send(ledger, deposit("alice", 5, "another"))
    settings = relay_settings(elsewhere, rabbitmq_url, tmp_path / "new")
    async with running_worker(elsewhere, rabbitmq_url), running_relay(settings):
        await eventually(lambda: has_dead_letter(elsewhere))
        await assert_pipeline_is_quiet_and_right(elsewhere, has_dead_letters=True)
    [letter] = await fetch_rows(elsewhere, "select wallet_id, version from dead_letters")
    assert tuple(letter) == ("alice", 3)
    assert await faults_of(elsewhere) == {}


async def is_published(url: str) -> bool:
    return not await fetch_rows(url, "select from journal where published_at is null")


async def has_dead_letter(url: str) -> bool:
    return bool(await fetch_rows(url, "select from dead_letters"))
