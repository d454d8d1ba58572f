"""Bulk requests when the world misbehaves: killed connections, locked wallets, lost answers, a culprit among many."""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial

import pytest

from tests.support.books import assert_books_are_right
from tests.support.database import connected, execute, fetch_value
from tests.support.ledger import deposit, running_ledger, send, send_bulk, transfer, withdraw
from tests.support.postgres_proxy import Loss, PostgresProxy
from tests.support.waiting import eventually
from wallet.domain.commands import Command
from wallet.ledger.bulk_turns import BULK_MAX
from wallet.ledger.ledger import Ledger
from wallet.ledger.requests import BulkAnswer, CommandFailed, NotExecuted, OutcomeUnknown
from wallet.runtime.failpoints import configure_failpoints

ROUNDS = 15
KILL = """
select count(pg_terminate_backend(pid)) from pg_stat_activity
where datname = current_database() and application_name = 'wallet api bulk lane' and state <> 'idle'
"""
WAITS_FOR_A_LOCK = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
EITHER_MODE = pytest.mark.parametrize("is_atomic", [False, True], ids=["independent", "atomic"])


@pytest.fixture(autouse=True)
def _no_failpoints_afterwards() -> Iterator[None]:
    yield
    configure_failpoints("")


@EITHER_MODE
async def test_connections_killed_in_the_middle_of_bulk_requests_double_nothing_and_lose_nothing(
    database_url: str, is_atomic: bool
) -> None:
    """Each request is big enough for its rows to be built while PostgreSQL stores those before."""
    async with running_ledger(database_url, deadline_seconds=30) as ledger:
        await send_bulk(ledger, [deposit(f"w{number}", 1000) for number in range(20)])
        async with connected(database_url) as killer:
            killed = 0
            for round_number in range(ROUNDS):
                commands: list[Command] = [
                    transfer(f"w{number % 20}", f"w{(number + 7) % 20}", 1, f"r{round_number}-{number}")
                    for number in range(200)
                ]
                sending = asyncio.create_task(until_definite(ledger, commands, is_atomic=is_atomic))
                # At a moment of the batch that differs from round to round.
                await asyncio.wait([sending], timeout=0.005 * round_number)
                killed += await killer.fetchval(KILL)
                assert {answer.status for answer in (await sending).results} == {201}
        assert killed > 0
    assert await fetch_value(database_url, "select count(*) from transfers") == ROUNDS * 200
    await assert_books_are_right(database_url)


@EITHER_MODE
async def test_the_answer_to_a_lost_commit_is_found_by_the_whole_request(database_url: str, is_atomic: bool) -> None:
    commands: list[Command] = [deposit("a", 5, "1"), transfer("a", "b", 2, "2"), withdraw("b", 1, "3")]
    async with running_ledger(database_url) as ledger:
        configure_failpoints("ledger.after_commit=raise@1")
        with pytest.raises(OutcomeUnknown):
            await send_bulk(ledger, commands, is_atomic=is_atomic)
        retry = await send_bulk(ledger, commands, is_atomic=is_atomic)
    assert retry.replayed
    assert [answer.status for answer in retry.results] == [201, 201, 201]
    assert await fetch_value(database_url, "select sum(balance)::text from wallets") == "4.0000"
    await assert_books_are_right(database_url)


@EITHER_MODE
@pytest.mark.parametrize("loss", Loss)
async def test_a_commit_lost_on_the_network_takes_effect_once_and_its_request_is_answered(
    database_url: str, is_atomic: bool, loss: Loss
) -> None:
    commands: list[Command] = [deposit("a", 5, "1"), transfer("a", "b", 2, "2"), withdraw("b", 1, "3")]
    proxy = PostgresProxy.to_server_of(database_url)
    async with proxy, running_ledger(proxy.url_of(database_url)) as ledger:
        proxy.lose(loss)
        first = await send_bulk(ledger, commands, is_atomic=is_atomic)
        [cut] = await proxy.commits_cut()
        retry = await send_bulk(ledger, commands, is_atomic=is_atomic)
    assert cut.reply == (None if loss is Loss.COMMIT else "COMMIT")
    assert retry.replayed
    assert [answer.body for answer in first.results] == [answer.body for answer in retry.results]
    assert await fetch_value(database_url, "select sum(balance)::text from wallets") == "4.0000"
    await assert_books_are_right(database_url)


async def test_a_bulk_request_on_a_locked_wallet_waits_alone_and_ends_unexecuted_at_its_deadline(
    database_url: str,
) -> None:
    async with running_ledger(database_url, deadline_seconds=2) as ledger:
        await asyncio.gather(*(send(ledger, deposit(name, 1)) for name in ("locked", "free")))
        async with connected(database_url) as outside, outside.transaction():
            await outside.execute("select from wallets where wallet_id = 'locked' for update")
            bulk = asyncio.create_task(send_bulk(ledger, [deposit("free", 1, "1"), deposit("locked", 1, "2")]))
            # It waits in its lane until the lock times out, and then beside the others.
            await eventually(lambda: fetch_value(database_url, WAITS_FOR_A_LOCK), within=5, every=0.01)
            await eventually(partial(is_waiting_beside, ledger), within=5, every=0.01)
            assert (await send_bulk(ledger, [deposit("other", 1)])).status == 200
            with pytest.raises(NotExecuted):
                await bulk
        again = await send_bulk(ledger, [deposit("free", 1, "1"), deposit("locked", 1, "2")])
        assert [answer.replayed for answer in again.results] == [False, False]
    await assert_books_are_right(database_url)


async def test_only_so_many_bulk_requests_wait_for_a_locked_wallet(database_url: str) -> None:
    async with running_ledger(database_url) as ledger:
        await send(ledger, deposit("locked", 1))
        async with connected(database_url) as outside, outside.transaction():
            await outside.execute("select from wallets where wallet_id = 'locked' for update")
            first = asyncio.create_task(send_bulk(ledger, [deposit("locked", 1)]))
            # It waits in its lane until the lock times out, and then beside the others.
            await eventually(lambda: fetch_value(database_url, WAITS_FOR_A_LOCK), within=5, every=0.01)
            await eventually(partial(is_waiting_beside, ledger), within=5, every=0.01)
            others = [asyncio.create_task(send_bulk(ledger, [deposit("locked", 1)])) for _ in range(BULK_MAX + 4)]
            refused, waiting = await asyncio.wait(others, timeout=0.5)
            assert all(isinstance(task.exception(), NotExecuted) for task in refused)
            assert (len(refused), len(waiting)) == (5, BULK_MAX - 1)
        assert {bulk.status for bulk in await asyncio.gather(first, *waiting)} == {200}
    await assert_books_are_right(database_url)


async def test_a_bulk_request_with_a_culprit_fails_whole_and_alone(database_url: str) -> None:
    await execute(database_url, "alter table operations add constraint planted check (request_id <> 'bad')")
    async with running_ledger(database_url) as ledger:
        requests: list[list[Command]] = [
            [deposit(f"w{number}", 1), deposit(f"w{number}", 1, "bad" if number == 2 else None)] for number in range(5)
        ]
        results = await asyncio.gather(*(send_bulk(ledger, each) for each in requests), return_exceptions=True)
        assert [isinstance(result, CommandFailed) for result in results] == [number == 2 for number in range(5)]
    assert await fetch_value(database_url, "select count(*) from wallets where wallet_id = 'w2'") == 0
    await assert_books_are_right(database_url)


async def until_definite(ledger: Ledger, commands: Sequence[Command], *, is_atomic: bool) -> BulkAnswer:
    """Send a request again with its keys while its outcome is not known."""
    while True:
        try:
            return await send_bulk(ledger, commands, is_atomic=is_atomic)
        except (NotExecuted, OutcomeUnknown):
            continue


def is_waiting_beside(ledger: Ledger) -> bool:
    return ledger.waiting_count == 1
