"""Checks that the books of a test's database are right, by `wallet verify`; an error names the broken invariant."""

from datetime import timedelta

from tests.support.database import connected, fetch_value
from tests.support.verification import faults_of
from tests.support.waiting import eventually

UNFINISHED_TRANSFERS = "select count(*) from transfers where status = 'debited'"
WAITING = """
select (select count(*) from journal where published_at is null)
    + (select count(*) from events e where not exists (
        select from processed_events p
        where p.bucket = e.bucket and p.event_id = e.event_id and p.status = 'success'))
"""
DEAD_LETTERS = "select count(*) from dead_letters"
NO_WORKER = timedelta(days=36_500)
"""No event has to have its effect yet."""


async def assert_books_are_right(database_url: str) -> None:
    """Verify the books, whose events need not be published yet. No transfer may be unfinished."""
    await assert_no_transfer_is_unfinished(database_url)
    await _assert_no_faults(database_url, NO_WORKER)


async def assert_no_transfer_is_unfinished(database_url: str) -> None:
    """Check I7 more strictly than `wallet verify`, which gives a transfer a minute."""
    assert await fetch_value(database_url, UNFINISHED_TRANSFERS) == 0, "I7: a transfer is unfinished"


async def assert_pipeline_is_quiet_and_right(database_url: str, *, has_dead_letters: bool = False) -> None:
    """Wait until no event waits, then verify: each event had its effect once, and the totals are those of the log."""
    await wait_until_quiet(database_url, has_dead_letters=has_dead_letters)
    await _assert_no_faults(database_url, timedelta())


async def wait_until_quiet(database_url: str, *, within: float = 60.0, has_dead_letters: bool = False) -> None:
    """Wait until each event is published and has its effect. Fails if there are dead letters, unless they are
    expected.
    """
    async with connected(database_url) as connection:

        async def is_quiet() -> bool:
            waiting = await connection.fetchval(WAITING)
            assert waiting == 0, f"{waiting} batches or events wait"
            return True

        await eventually(is_quiet, within=within, every=0.1)
        assert has_dead_letters or await connection.fetchval(DEAD_LETTERS) == 0


async def _assert_no_faults(database_url: str, effect_within: timedelta) -> None:
    faults = await faults_of(database_url, effect_within=effect_within)
    assert not faults, "; ".join(
        f"{check.invariant} {check.title}: {finding.fault_count} faults, the first {finding.first}"
        for check, finding in faults.items()
    )
