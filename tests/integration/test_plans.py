"""The plans of the statements that run for every batch, page or message: lookups by key, however big the tables are.

Judged twice: with tables that nobody has analyzed since they were empty (a database in its first minutes, when a plan
that reads a whole table costs more with each batch), and with statistics that are true.
"""

import asyncio
import json
import re
from collections.abc import Iterator

from tests.support.database import connected
from wallet.integrity.checks.delivery import prove_delivery
from wallet.integrity.snapshot import ALL_BUCKETS, SQL, snapshot_on
from wallet.postgres.connections import ROWS_BY_KEY, connect
from wallet.postgres.statements import load_statements

FILL = """
insert into wallets (bucket, wallet_id, currency, balance, version)
select wallet_bucket('w' || n), 'w' || n, 'USD', 10, 10 from generate_series(1, 10000) as n;
insert into events (bucket, wallet_id, version, event_id, type, schema_version, amount, balance_after, payload,
    batch_id, ordinal, api_audit_id, occurred_at)
select w.bucket, w.wallet_id, v, gen_random_uuid(), case v when 10 then 'FundsWithdrawn' else 'FundsDeposited' end, 1,
    1, v, '{}', md5(w.wallet_id)::uuid, 0, gen_random_uuid(), now() + v * interval '1 second'
from wallets w, generate_series(1, 10) as v;
insert into operations (bucket, wallet_id, request_id, kind, fingerprint, state, success, status, response, batch_id,
    api_audit_id)
select bucket, wallet_id, version::text, 'deposit', 'deposit:1:', 'final', true, 201, '', batch_id, api_audit_id
from events;
insert into transfers (bucket, from_wallet_id, transfer_id, to_wallet_id, amount, currency, status, request_id,
    api_audit_id, created_at, updated_at)
select bucket, wallet_id, event_id, 'other', 1, 'USD', 'completed', version::text, event_id, now(), now() from events;
insert into transfer_credits (bucket, to_wallet_id, transfer_id, outcome, event_version, balance_after, decided_at)
select bucket, wallet_id, event_id, 'credited', 1, 1, now() from events;
insert into api_audit (bucket, api_audit_id, method, url, body, body_length, body_sha256, headers, client_ip, status,
    wallet_id, request_id, "timestamp")
select bucket, api_audit_id, 'POST', '/', '', 0, '', '{}', '', 201, wallet_id, version::text, now() from events;
insert into journal (batch_id, event_count, digest) select distinct batch_id, 10, ''::bytea from events;
update journal set position = seq, chain = '', sealed_at = now(), published_at = now() where seq <= 9900;
insert into processed_events (bucket, event_id, status, attempts, processed_at)
select bucket, event_id, 'success', 1, now() from events;
insert into wallet_stats (bucket, wallet_id) select bucket, wallet_id from wallets;
"""
LONG_HISTORY = """
insert into events (bucket, wallet_id, version, event_id, type, schema_version, amount, balance_after, payload,
    batch_id, ordinal, api_audit_id, occurred_at)
select 6, 'hot', v, gen_random_uuid(), 'FundsDeposited', 1, 1, v, '{}', gen_random_uuid(), 0, gen_random_uuid(),
    now() + v * interval '1 second'
from generate_series(1, 20000) as v
"""
SESSIONS = [
    ("wallet.ledger", "ledger.sql", ROWS_BY_KEY),
    ("wallet.trail", "trail.sql", ROWS_BY_KEY),
    ("wallet.relay", "relay.sql", ROWS_BY_KEY),
    ("wallet.worker", "worker.sql", ROWS_BY_KEY),
    ("wallet.worker", "progress.sql", ROWS_BY_KEY),
    ("wallet.queries", "queries.sql", {}),
]
PROOF_SECONDS_MAX = 20.0
ONE_ROW = ("journal_head", "worker_checkpoint", "stats_progress")
WITHOUT_INDEX = (
    "effects_without_events",
    "failures_without_dead_letters",
    "events_without_effect",
    "operations_unlike_their_trail",
    "trail_rows_without_outcome",
)
WHOLE = re.compile(r"Seq Scan on (\w+)")
PARAMETER = re.compile(r"\$([0-9]+)")


def statements() -> Iterator[tuple[str, str, dict[str, str]]]:
    for package, filename, settings in SESSIONS:
        for name, text in vars(load_statements(package, filename)).items():
            yield f"{package}.{name}", text, settings


async def whole_reads(database_url: str) -> dict[str, str]:
    """The statements that would read a big table from end to end, with their plans."""
    found = {}
    for name, text, settings in statements():
        connection = await connect(database_url, application_name="test plans", settings=settings)
        await connection.execute("set plan_cache_mode = force_generic_plan")
        await connection.execute(f"prepare statement as {text}")
        nulls = ", ".join(["null"] * max(map(int, PARAMETER.findall(text)), default=0))
        lines = await connection.fetch(f"explain (costs off) execute statement{nulls and f'({nulls})'}")
        await connection.close()
        plan = "\n".join(line[0] for line in lines)
        if {*WHOLE.findall(plan)} - {*ONE_ROW}:
            found[name] = plan
    return found


async def test_the_events_of_a_long_history_are_found_by_their_versions(database_url: str) -> None:
    """The worker's lookup must not read all of a wallet's events for each one, whatever the statistics say."""
    # Its statements have no time limit: on a slow machine the rows take longer than the wallet's connections wait.
    async with connected(database_url) as filling:
        await filling.execute("alter table events set (autovacuum_enabled = off)")
        await filling.execute(FILL)
        await filling.execute(LONG_HISTORY)
    connection = await connect(database_url, application_name="test plans", settings=ROWS_BY_KEY)
    read_events = load_statements("wallet.worker", "worker.sql").read_events
    arguments = [6] * 200, ["hot"] * 200, list(range(19_800, 20_000))
    for is_analyzed in (False, True):
        if is_analyzed:
            await connection.execute("analyze")
        lines = await connection.fetch(f"explain (analyze, buffers, format json) {read_events}", *arguments)
        [plan] = json.loads(lines[0][0])
        assert plan["Plan"]["Actual Rows"] == 200
        assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 200 * 8
    await connection.close()


async def test_no_statement_of_the_hot_paths_reads_a_whole_table(database_url: str) -> None:
    async with connected(database_url) as connection:
        for table in ("wallets", "events", "operations", "transfers", "transfer_credits", "api_audit", "journal"):
            # Statistics must not become true by themselves in the middle of the test.
            await connection.execute(f"alter table {table} set (autovacuum_enabled = off)")
        await connection.execute(FILL)
        assert await whole_reads(database_url) == {}
        await connection.execute("analyze")
        assert await whole_reads(database_url) == {}


async def test_a_proof_of_tables_that_nobody_has_analyzed_loops_over_none_of_them(database_url: str) -> None:
    """As after a restore: a lookup for each event in a table without an index for it would take hours."""
    async with connected(database_url) as connection:
        for table in ("events", "processed_events", "journal", "dead_letters", "operations", "api_audit"):
            await connection.execute(f"alter table {table} set (autovacuum_enabled = off)")
        await connection.execute(FILL)
        async with snapshot_on(connection) as snapshot, snapshot.joining_whole_tables():
            for name in WITHOUT_INDEX:
                statement = getattr(SQL, name)
                count = max(map(int, PARAMETER.findall(statement)), default=0)
                arguments = [*ALL_BUCKETS, snapshot.taken_at, 1, snapshot.taken_at, 1, 5][:count]
                plan = "\n".join(line[0] for line in await snapshot.rows(f"explain {statement}", *arguments))
                assert "Nested Loop" not in plan, f"{name}:\n{plan}"
        async with asyncio.timeout(PROOF_SECONDS_MAX), snapshot_on(connection) as snapshot:
            assert [finding.first for finding in await prove_delivery(snapshot)] == [None, None]
