"""An event that nothing will bring any more is named by verify, whatever happened to the dead letters."""

from datetime import timedelta
from typing import Final

import pytest

from tests.support.database import execute, fetch_rows
from tests.support.ledger import deposit, running_ledger, send
from tests.support.verification import proof_of
from tests.support.worker import RULES
from tests.support.written_books import process_all, seal_all
from wallet.dead_letters.reading import DeadLetterId, open_database
from wallet.dead_letters.replay import discard
from wallet.integrity.findings import Check, Finding
from wallet.rabbitmq.publisher import OutgoingMessage
from wallet.worker.dead_letters import keep
from wallet.worker.messages import RefusedMessage
from wallet.worker.rebuild import rebuild

NOW: Final = timedelta(0)


async def finding_of(database_url: str, effect_within: timedelta = NOW) -> Finding:
    proof = await proof_of(database_url, effect_within=effect_within)
    assert {finding.check for finding in proof.findings if finding.fault_count} <= {Check.EFFECTS}
    return next(finding for finding in proof.findings if finding.check is Check.EFFECTS)


async def steal_a_deposit(database_url: str) -> str:
    """Two events that the worker will never see, the last of the journal; returns the id of the deposit."""
    async with running_ledger(database_url) as ledger:
        await send(ledger, deposit("alice", 5))
        await seal_all(database_url)
        await process_all(database_url)
        await send(ledger, deposit("victim", 500))
        await seal_all(database_url)
    await execute(database_url, "update worker_checkpoint set position = 2, holder = null, lease_until = '-infinity'")
    [(event_id,)] = await fetch_rows(
        database_url, "select event_id::text from events where wallet_id = 'victim' and version = 2"
    )
    return str(event_id)


async def go_on(database_url: str) -> None:
    """Something later has its effect."""
    async with running_ledger(database_url) as ledger:
        await send(ledger, deposit("alice", 1))
    await seal_all(database_url)
    await execute(database_url, "update worker_checkpoint set position = 2")
    await execute(
        database_url,
        """insert into processed_events (bucket, event_id, status, attempts, processed_at)
            select bucket, event_id, 'success', 1, now() from events e
            where wallet_id = 'alice' and not exists (select from processed_events p where p.event_id = e.event_id);
            update wallet_stats s set total_deposited = w.balance, last_activity_at = w.last_event_at
            from wallets w where w.wallet_id = s.wallet_id""",
    )


async def keep_forged(database_url: str, event_id: str) -> None:
    async with open_database(database_url) as connection:
        await keep(
            connection,
            [RefusedMessage(OutgoingMessage(f'{{"id": "{event_id}"}}'.encode(), event_id, None), "forged", 1)],
        )


async def test_an_event_that_the_worker_has_passed_over_is_lost_and_rebuild_gives_its_effect(database_url: str) -> None:
    event_id = await steal_a_deposit(database_url)
    late = await finding_of(database_url)
    assert late.first is None
    assert late.warnings[0].startswith("2 events published more than 0 s ago had no effect yet")
    assert "wallet victim" in late.warnings[0]
    await go_on(database_url)
    lost = await finding_of(database_url)
    assert lost.fault_count == 2
    assert lost.first is not None
    assert event_id in lost.first.row
    assert "(wallet victim, version 2)" in lost.first.row
    assert "`wallet rebuild`" in lost.first.found
    younger = await finding_of(database_url, timedelta(minutes=1))
    assert (younger.first, younger.warnings) == (None, [])
    await rebuild(database_url, RULES)
    assert (await finding_of(database_url)).first is None


@pytest.mark.parametrize("is_passed_over", [False, True])
async def test_an_event_whose_dead_letter_was_discarded_is_named_whatever_came_later(
    database_url: str, is_passed_over: bool
) -> None:
    event_id = await steal_a_deposit(database_url)
    if is_passed_over:
        await go_on(database_url)
    await keep_forged(database_url, event_id)
    waiting = await finding_of(database_url)
    assert event_id not in str(waiting.first) + str(waiting.warnings)
    async with open_database(database_url) as connection:
        await discard(connection, DeadLetterId(1), actor="ann", reason="forged", is_forced=True)
    named = await finding_of(database_url)
    assert named.first is not None
    assert event_id in named.first.row
    await execute(database_url, "delete from dead_letters")
    assert (event_id in str((await finding_of(database_url)).first)) == is_passed_over
    await rebuild(database_url, RULES)
    assert (await finding_of(database_url)).first is None


async def test_a_replay_counts_as_on_its_way_until_something_published_later_has_its_effect(database_url: str) -> None:
    event_id = await steal_a_deposit(database_url)
    await go_on(database_url)
    await keep_forged(database_url, event_id)
    await execute(database_url, "update dead_letters set state = 'replayed', actor = 'ann', updated_at = now()")
    just_now = await finding_of(database_url, timedelta(minutes=1))
    assert event_id not in str(just_now.first) + str(just_now.warnings)
    # Nothing else happens, and the replay has had its minute: it is named, though nothing proves that it is lost.
    waiting = await finding_of(database_url)
    assert event_id not in str(waiting.first)
    assert event_id in str(waiting.warnings)
    await go_on(database_url)
    assert event_id in str((await finding_of(database_url)).first)
