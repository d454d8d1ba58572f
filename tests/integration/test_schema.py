"""The schema: what it refuses by itself, and what must agree with Python."""

import asyncio
import random
import re

import asyncpg
import pytest

from tests.support.database import connected, execute, fetch_rows, fetch_value
from tests.support.ledger import deposit, running_ledger, send, transfer
from tests.unit.test_identifiers import GOLDEN_BUCKETS
from wallet.dead_letters.reading import DeadLetterKind, DeadLetterState
from wallet.domain.commands import COMMANDS
from wallet.domain.identifiers import WalletId, bucket_of
from wallet.domain.transfer import TransferStatus
from wallet.postgres.migrations import MigrationError, migrate, missing_migrations

PRUNE_CAROL = """
insert into trail_prunings (bucket, actor, reason, before, first_id, last_id)
select bucket, 'ann', 'a test', now(), api_audit_id, api_audit_id from api_audit where wallet_id = 'carol'
"""


async def test_python_and_postgresql_agree_on_buckets(database_url: str, seed: int) -> None:
    draw = random.Random(seed)
    alphabet = "ABCxyz0189._:@-"
    ids = [*GOLDEN_BUCKETS, *("w" + "".join(draw.choices(alphabet, k=draw.randint(0, 127))) for _ in range(200))]
    rows = await fetch_rows(database_url, "select id, wallet_bucket(id) as bucket from unnest($1::text[]) as id", ids)
    assert {row["id"]: row["bucket"] for row in rows} == {each: bucket_of(WalletId(each)) for each in ids}


@pytest.mark.parametrize(
    "statement",
    [
        "update events set amount = 1",
        "delete from events",
        "truncate events",
        "update operations set response = ''",
        "delete from operations",
        "truncate operations",
        "update transfers set status = 'failed'",
        "delete from transfers",
        "truncate transfers",
        "update api_audit set url = ''",
        "delete from api_audit",
        "truncate api_audit",
        "update journal set digest = ''",
        "delete from journal",
        "truncate journal",
        "update trail_prunings set reason = ''",
        "delete from trail_prunings",
        "truncate trail_prunings",
    ],
)
async def test_the_books_refuse_to_be_changed_even_by_their_owner(database_url: str, statement: str) -> None:
    async with running_ledger(database_url) as ledger:
        await send(ledger, deposit("alice", 100))
        await send(ledger, transfer("alice", "bob", 1))
        await send(ledger, deposit("carol", 1))
    await execute(database_url, PRUNE_CAROL)
    with pytest.raises(asyncpg.RestrictViolationError, match="is refused"):
        await execute(database_url, statement)


async def test_journal_values_go_from_null_to_a_value_once(database_url: str) -> None:
    async with running_ledger(database_url) as ledger:
        await send(ledger, deposit("alice", 100))
    async with connected(database_url) as connection:
        await connection.execute("update journal set position = 1, chain = '\\x01', sealed_at = now()")
        await connection.execute("update journal set published_at = now()")
        for change in ("position = 2", "chain = '\\x02'", "published_at = null", "sealed_at = now() + interval '1s'"):
            with pytest.raises(asyncpg.RestrictViolationError):
                await connection.execute(f"update journal set {change}")


async def test_a_balance_below_zero_is_refused_by_the_table_itself(database_url: str) -> None:
    async with running_ledger(database_url) as ledger:
        await send(ledger, deposit("alice", 100))
    with pytest.raises(asyncpg.CheckViolationError, match="wallets_balance_not_negative"):
        await execute(database_url, "update wallets set balance = -0.0001")


async def test_the_journals_sequence_hands_out_one_number_at_a_time(database_url: str) -> None:
    cache_size = "select cache_size from pg_sequences where sequencename = 'journal_seq_seq'"
    assert await fetch_value(database_url, cache_size) == 1


async def test_every_unique_key_of_a_wallets_table_leads_with_its_bucket(database_url: str) -> None:
    rows = await fetch_rows(
        database_url,
        """
        select c.conrelid::regclass::text as table_name, a.attname as first_column
        from pg_constraint c join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
        where c.contype in ('p', 'u') and c.connamespace = 'public'::regnamespace
        """,
    )
    on_one_node = {
        "api_keys",
        "api_keys_version",
        "auditor",
        "dead_letters",
        "journal",
        "journal_head",
        "schema_migrations",
        "stats_progress",
        "worker_checkpoint",
    }
    assert {row["first_column"] for row in rows if row["table_name"] not in on_one_node} == {"bucket"}


async def test_several_processes_may_migrate_at_once_and_again(empty_database_url: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_database_url) for _ in range(4)))
    assert sorted(name for names in applied for name in names) == sorted({name for names in applied for name in names})
    assert await migrate(empty_database_url) == []
    async with connected(empty_database_url) as connection:
        assert await missing_migrations(connection) == []


async def test_a_migration_that_was_edited_after_it_was_applied_is_refused(database_url: str) -> None:
    await execute(database_url, "update schema_migrations set checksum = 'other' where version = 2")
    with pytest.raises(MigrationError, match="0002_journal was changed"):
        await migrate(database_url)


@pytest.mark.parametrize(
    ("constraint", "values"),
    [
        ("operations_kind_known", set(COMMANDS)),
        ("transfers_status_known", set(TransferStatus)),
        ("dead_letters_kind_known", {kind.value for kind in DeadLetterKind}),
        ("dead_letters_state_known", {state.value for state in DeadLetterState}),
    ],
)
async def test_a_table_accepts_exactly_the_values_that_python_knows(
    constraint: str, values: set[str], database_url: str
) -> None:
    query = "select pg_get_constraintdef(oid) from pg_constraint where conname = $1"
    assert set(re.findall(r"'(\w+)'", await fetch_value(database_url, query, constraint))) == values
