"""Migrations beside a running system: they wait a moment for their locks, give way, and try again."""

import asyncio
from hashlib import sha256

import pytest

from tests.support.books import assert_books_are_right
from tests.support.database import connected
from tests.support.ledger import deposit, running_ledger, send
from tests.support.live_load import load_on
from tests.support.waiting import eventually
from wallet.postgres import migrations
from wallet.postgres.migrations import Migration, MigrationBlocked, migrate, missing_migrations, read_migrations

# What a dump, `wallet verify` and a forgotten session hold on a table that they have read.
READER_LOCK = "begin; select from wallets limit 1"


def add_migration(monkeypatch: pytest.MonkeyPatch, sql: str) -> str:
    """Give this version one more migration; returns its name."""
    known = read_migrations()
    added = Migration(len(known) + 1, "one_more", sql, sha256(sql.encode()).hexdigest())
    monkeypatch.setattr(migrations, "read_migrations", lambda: [*known, added])
    return added.full_name


async def test_a_migration_may_take_longer_than_a_request_while_another_migrate_waits_its_turn(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = add_migration(monkeypatch, "create table one_more (id integer); select pg_sleep(6.2)")
    applied = await asyncio.gather(migrate(database_url), migrate(database_url))
    assert sorted(applied) == [[], [name]]


async def test_a_migration_that_cannot_have_its_lock_lets_writers_go_on_and_leaves_nothing_half_done(
    database_url: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    name = add_migration(monkeypatch, "create table half_done (id integer); alter table wallets add column note text")
    monkeypatch.setattr(migrations, "LOCK_ATTEMPTS_MAX", 3)
    reported: list[str] = []
    async with connected(database_url) as reader, connected(database_url) as connection:
        await reader.execute(READER_LOCK)
        async with running_ledger(database_url) as ledger, load_on(ledger, seed=seed):
            with pytest.raises(MigrationBlocked, match=f"{name} did not get its locks in 3 attempts; nothing of it"):
                await migrate(database_url, reported.append)
            await send(ledger, deposit("alice", 1))
        assert await missing_migrations(connection) == [name]
        assert await connection.fetchval("select to_regclass('half_done') is null")
    assert reported == [f"{name} waits for what it must lock; others go on meanwhile"]
    monkeypatch.undo()
    await assert_books_are_right(database_url)


async def test_a_migration_under_load_is_applied_when_its_lock_is_free_and_no_client_sees_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    tables = ("wallets", "events", "operations", "journal", "api_audit", "transfers")
    name = add_migration(monkeypatch, ";".join(f"alter table {table} add column note text" for table in tables))
    reported: list[str] = []
    async with connected(database_url) as reader:
        await reader.execute(READER_LOCK)
        async with running_ledger(database_url) as ledger, load_on(ledger, seed=seed):
            migrating = asyncio.create_task(migrate(database_url, reported.append))
            await eventually(lambda: reported)
            await reader.execute("commit")
            assert await migrating == [name]
            await send(ledger, deposit("alice", 1))
    await assert_books_are_right(database_url)
