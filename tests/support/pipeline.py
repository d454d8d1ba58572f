"""Checks of the pipeline once it is quiet: all events are published and processed once, and the totals are right."""

import asyncpg

from tests.support.waiting import eventually

QUIET = """
select (select count(*) from journal where published_at is null)
    + (select count(*) from events e where not exists (
        select from processed_events p
        where p.bucket = e.bucket and p.event_id = e.event_id and p.status = 'success'))
"""
TOTALS = """
with moved as (
    select bucket, wallet_id, type, amount, occurred_at from events
    union all
    select wallet_bucket(payload ->> 'toWalletId'), payload ->> 'toWalletId', 'TransferArrived', amount, occurred_at
    from events where type = 'TransferCompleted'
), expected as (
    select bucket, wallet_id,
        coalesce(sum(amount) filter (where type = 'FundsDeposited'), 0) as total_deposited,
        coalesce(sum(amount) filter (where type = 'FundsWithdrawn'), 0) as total_withdrawn,
        coalesce(sum(amount) filter (where type = 'TransferCompleted'), 0) as total_transferred_out,
        coalesce(sum(amount) filter (where type = 'TransferArrived'), 0) as total_transferred_in,
        max(occurred_at) as last_activity_at
    from moved group by bucket, wallet_id
)
select wallet_id from expected e full join wallet_stats s using (bucket, wallet_id)
where (e.total_deposited, e.total_withdrawn, e.total_transferred_out, e.total_transferred_in, e.last_activity_at)
    is distinct from
    (s.total_deposited, s.total_withdrawn, s.total_transferred_out, s.total_transferred_in, s.last_activity_at)
"""
GAPS = "select max(position) - count(*) from journal where position is not null"


async def assert_pipeline_is_quiet_and_right(
    database_url: str, *, within: float = 60.0, has_dead_letters: bool = False
) -> None:
    """Check I6 and I8: no event waits, each event had its effect once, and the totals are those of the log."""
    connection = await asyncpg.connect(database_url)
    try:

        async def is_quiet() -> bool:
            waiting = await connection.fetchval(QUIET)
            assert waiting == 0, f"{waiting} batches or events wait"
            return True

        await eventually(is_quiet, within=within, every=0.1)
        assert await connection.fetch(TOTALS) == [], "I8 projections"
        assert await connection.fetchval(GAPS) == 0, "I9 positions have a gap"
        assert has_dead_letters or await connection.fetchval("select count(*) from dead_letters") == 0
    finally:
        await connection.close()
