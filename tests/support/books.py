"""Checks of the invariants on a database; an error names the invariant."""

import asyncpg

from wallet.domain.events import EVENT_TYPES

SIGNS = [kind.effect.balance for kind in EVENT_TYPES.values()]
CONSERVATION = """
select (select coalesce(sum(balance), 0) from wallets)
    + coalesce(sum(amount) filter (where type = 'TransferDebited'), 0)
    - coalesce(sum(amount) filter (where type in ('TransferCredited', 'TransferCompensated')), 0)
    - coalesce(sum(amount) filter (where type = 'FundsDeposited'), 0)
    + coalesce(sum(amount) filter (where type = 'FundsWithdrawn'), 0)
from events
"""
BALANCES = """
select w.wallet_id
from wallets w
left join lateral (
    select e.balance_after, e.version, e.occurred_at from events e
    where e.bucket = w.bucket and e.wallet_id = w.wallet_id order by e.version desc limit 1
) e on true
where (w.balance, w.version, w.last_event_at) is distinct from (e.balance_after, e.version, e.occurred_at)
"""
VERSIONS = """
select wallet_id, version from (
    select bucket, wallet_id, version, balance_after, amount, type, occurred_at,
        lag(version, 1, 0::bigint) over w as previous_version,
        lag(balance_after, 1, 0::numeric) over w as previous_balance,
        lag(occurred_at) over w as previous_time
    from events window w as (partition by bucket, wallet_id order by version)
) e join unnest($1::text[], $2::integer[]) as s (type, sign) using (type)
where version <> previous_version + 1 or balance_after <> previous_balance + sign * amount
    or occurred_at <= previous_time
"""
JOURNAL = """
select j.batch_id from journal j
where j.event_count <> (select count(*) from events e where e.batch_id = j.batch_id)
    or (j.event_count = 0 and not exists (select from operations o where o.batch_id = j.batch_id))
union all
select e.batch_id from events e where not exists (select from journal j where j.batch_id = e.batch_id)
union all
select o.batch_id from operations o
where o.state = 'final' and not exists (select from journal j where j.batch_id = o.batch_id)
"""
AUDIT = """
select o.request_id, o.status, o.api_audit_id,
    (select jsonb_agg(to_jsonb(a)) from api_audit a where a.api_audit_id = o.api_audit_id) as audited
from operations o
where not exists (
    select from api_audit a
    where a.bucket = o.bucket and a.api_audit_id = o.api_audit_id and a.request_id = o.request_id
        and a.status is not distinct from o.status
) and not exists (
    -- A bulk request has one row for all of its keys: 200, or the refusal of an atomic one, which each key has as well.
    select from api_audit a
    where a.bucket = 0 and a.api_audit_id = o.api_audit_id and a.wallet_id is null and a.request_id is null
        and a.url like '/operations%' and (a.status = 200 or a.status = o.status)
)
"""
OPERATIONS = """
select o.request_id from operations o
where o.success and not exists (
    select from events e
    where e.bucket = o.bucket and e.wallet_id = o.wallet_id and e.batch_id = o.batch_id
        and e.payload ->> 'requestId' = o.request_id
)
"""


async def assert_books_are_right(database_url: str) -> None:
    """Checks conservation, balances, versions, that journal and trail are complete, and that no wallet is empty."""
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval(CONSERVATION) == 0, "I1 conservation"
        await _finds_nothing(connection, BALANCES, promise="I2 balance")
        await _finds_nothing(
            connection,
            VERSIONS,
            list(EVENT_TYPES),
            SIGNS,
            promise="I3 versions",
        )
        assert await connection.fetchval("select count(*) from wallets where balance < 0 or version = 0") == 0, "I4"
        await _finds_nothing(connection, OPERATIONS, promise="I5 once")
        assert await connection.fetchval("select count(*) from transfers where status = 'debited'") == 0, "I7"
        await _finds_nothing(connection, JOURNAL, promise="I9 log")
        await _finds_nothing(connection, AUDIT, promise="I10 audit")
    finally:
        await connection.close()


async def _finds_nothing(
    connection: "asyncpg.Connection[asyncpg.Record]", query: str, *arguments: object, promise: str
) -> None:
    rows = await connection.fetch(query, *arguments)
    assert rows == [], f"{promise}: {len(rows)} rows, the first {dict(rows[0])}"


async def fetch_value(database_url: str, query: str, *arguments: object) -> object:
    """Returns one value, read on a connection of its own."""
    connection = await asyncpg.connect(database_url)
    try:
        return await connection.fetchval(query, *arguments)
    finally:
        await connection.close()
