"""The ledger when the world misbehaves: locked wallets, killed connections, lost answers, drivers that died."""

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial

import pytest

from tests.support.books import assert_books_are_right
from tests.support.database import connected, fetch_value
from tests.support.ledger import audit_of, deposit, running_ledger, send, transfer, withdraw
from tests.support.postgres import PostgresServer
from tests.support.postgres_proxy import Loss, PostgresProxy
from tests.support.proxy import Proxy
from tests.support.proxy_link import Network
from tests.support.waiting import eventually
from wallet.domain.commands import Command
from wallet.ledger import saga
from wallet.ledger.ledger import Ledger
from wallet.ledger.requests import Answer, CommandFailed, NotExecuted, OutcomeUnknown
from wallet.runtime.failpoints import configure_failpoints


@pytest.fixture(autouse=True)
def _no_failpoints_afterwards() -> Iterator[None]:
    yield
    configure_failpoints("")


async def test_a_wallet_locked_by_another_session_slows_nobody_else(database_url: str) -> None:
    async with running_ledger(database_url) as ledger:
        await asyncio.gather(*(send(ledger, deposit(f"w{number}", 100)) for number in range(10)))
        async with connected(database_url) as outside, outside.transaction():
            await outside.execute("select from wallets where wallet_id = 'w0' for update")
            waiting = [
                asyncio.create_task(send(ledger, command))
                for command in (withdraw("w0", 1, "h1"), transfer("w0", "w1", 1, "h2"), withdraw("w0", 1, "h3"))
            ]
            # The first batch may meet the lock and wait for its time-out; from then on the others must not.
            await send(ledger, deposit("w1", 1))
            slowest = 0.0
            for number in range(200):
                started = time.perf_counter()
                assert (await send(ledger, deposit(f"w{1 + number % 9}", 1))).status == 201
                slowest = max(slowest, time.perf_counter() - started)
            assert not any(task.done() for task in waiting)
            assert slowest < 0.4, f"a request on a free wallet took {slowest:.3f} s"
        answers = await asyncio.gather(*waiting)
        assert [answer.status for answer in answers] == [201, 201, 201]
        assert [json.loads(answer.body)["balance"] for answer in (answers[0], answers[2])] == ["99.0000", "97.0000"]
    await assert_books_are_right(database_url)


async def test_a_wallet_being_made_by_someone_outside_slows_nobody_else(database_url: str) -> None:
    async with running_ledger(database_url) as ledger:
        await send(ledger, deposit("w1", 100))
        async with connected(database_url) as outside:
            creating = outside.transaction()
            await creating.start()
            await outside.execute(
                "insert into wallets (bucket, wallet_id, currency, balance, version)"
                " values (wallet_bucket('new'), 'new', 'USD', 0, 0)"
            )
            waiting = asyncio.create_task(send(ledger, deposit("new", 1)))
            others = [await send(ledger, deposit("w1", 1)) for _ in range(20)]
            assert {answer.status for answer in others} == {201}
            assert not waiting.done()
            await creating.rollback()
        assert (await waiting).status == 201
    await assert_books_are_right(database_url)


async def test_a_request_on_a_locked_wallet_ends_at_its_deadline_unexecuted(database_url: str) -> None:
    async with running_ledger(database_url, deadline_seconds=1.0) as ledger:
        await send(ledger, deposit("w0", 100))
        async with connected(database_url) as outside, outside.transaction():
            await outside.execute("select from wallets where wallet_id = 'w0' for update")
            with pytest.raises(NotExecuted):
                await send(ledger, withdraw("w0", 1, "k"))
        assert (await send(ledger, withdraw("w0", 1, "k"))).status == 201
    assert await fetch_value(database_url, "select balance::text from wallets where wallet_id = 'w0'") == "99.0000"
    await assert_books_are_right(database_url)


@pytest.mark.parametrize("is_stepwise", [False, True], ids=["whole", "stepwise"])
async def test_killed_connections_under_load_double_nothing_and_lose_nothing(
    database_url: str, is_stepwise: bool
) -> None:
    async with running_ledger(database_url, is_stepwise=is_stepwise) as ledger:
        await asyncio.gather(*(send(ledger, deposit(f"w{number}", 1000)) for number in range(8)))
        done = asyncio.Event()
        killer = asyncio.create_task(kill_lanes_until(done, database_url))
        answers = await asyncio.gather(*(client(ledger, number) for number in range(24)))
        done.set()
        assert await killer > 0
    assert {answer.status for each in answers for answer in each} == {201}
    moved = await fetch_value(database_url, "select count(*) from operations where kind = 'transfer' and success")
    assert moved == 24 * 15
    await assert_books_are_right(database_url)


async def client(ledger: Ledger, number: int) -> list[Answer]:
    """Sends its transfers one by one, each again with its key while the outcome is not known."""
    answers = []
    for step in range(15):
        command = transfer(f"w{number % 8}", f"w{(number + 1 + step % 7) % 8}", 1, f"c{number}-{step}")
        answers.append(await eventually(partial(try_once, ledger, command), within=30))
    return answers


async def try_once(ledger: Ledger, command: Command) -> Answer | None:
    try:
        return await send(ledger, command)
    except (NotExecuted, OutcomeUnknown):
        return None


async def kill_lanes_until(done: asyncio.Event, database_url: str) -> int:
    killed = 0
    async with connected(database_url) as connection:
        while not done.is_set():
            killed += await connection.fetchval(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                " where datname = current_database() and application_name like 'wallet api lane%'"
            )
            try:
                await asyncio.wait_for(done.wait(), 0.2)
            except TimeoutError:
                continue
    return killed


async def test_the_answer_to_a_lost_commit_is_found_by_the_same_request(database_url: str) -> None:
    async with running_ledger(database_url) as ledger:
        await send(ledger, deposit("alice", 100))
        configure_failpoints("ledger.after_commit=raise@1")
        command = deposit("alice", 5, "k")
        with pytest.raises(OutcomeUnknown):
            await send(ledger, command)
        first = await ledger.execute(command, audit_of(command))
        retry = await send(ledger, deposit("alice", 5, "k"))
    assert not first.replayed
    assert retry.replayed
    assert first.body == retry.body
    assert await fetch_value(database_url, "select balance::text from wallets") == "105.0000"
    await assert_books_are_right(database_url)


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("is_stepwise", [False, True], ids=["whole", "stepwise"])
async def test_a_commit_lost_on_the_network_takes_effect_once_and_its_client_is_answered(
    database_url: str, loss: Loss, is_stepwise: bool
) -> None:
    proxy = PostgresProxy.to_server_of(database_url)
    async with proxy, running_ledger(proxy.url_of(database_url), is_stepwise=is_stepwise) as ledger:
        await send(ledger, deposit("alice", 100))
        # A stepwise transfer is three of them, and each is lost.
        for number in range(1, 6, 2):
            proxy.lose(loss, number)
        first = await send(ledger, transfer("alice", "bob", 5, "k"))
        await send(ledger, withdraw("alice", 1))
        await send(ledger, withdraw("bob", 1))
        cuts = await proxy.commits_cut(3)
        retry = await send(ledger, transfer("alice", "bob", 5, "k"))
    assert [cut.reply for cut in cuts] == [None if loss is Loss.COMMIT else "COMMIT"] * 3
    assert (first.status, first.replayed, retry.replayed) == (201, False, True)
    assert first.body == retry.body
    balances = await fetch_value(database_url, "select array_agg(balance::text order by wallet_id) from wallets")
    assert balances == ["94.0000", "4.0000"]
    await assert_books_are_right(database_url)


async def test_a_culprit_fails_alone(database_url: str) -> None:
    async with running_ledger(database_url) as ledger:
        await send(ledger, deposit("alice", 100))
        commands = [deposit("alice", 1, f"k{number}") for number in range(9)]
        # A constraint stands in for a bug of ours that one command sets off.
        async with connected(database_url) as connection:
            await connection.execute(
                "alter table operations add constraint planted check (request_id <> 'k4' or wallet_id <> 'alice')"
            )
            results = await asyncio.gather(*(send(ledger, command) for command in commands), return_exceptions=True)
            await connection.execute("alter table operations drop constraint planted")
        assert [number for number, result in enumerate(results) if isinstance(result, CommandFailed)] == [4]
        assert sum(isinstance(result, Answer) for result in results) == 8
        assert (await send(ledger, commands[4])).status == 201
    assert await fetch_value(database_url, "select balance::text from wallets") == "109.0000"
    await assert_books_are_right(database_url)


@pytest.mark.parametrize("place", ["saga.after_debit", "saga.after_credit"])
async def test_a_transfer_whose_driver_died_is_finished_by_two_recoverers_at_once(
    database_url: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_ledger(database_url, is_stepwise=True) as ledger:
        await send(ledger, deposit("alice", 100))
        configure_failpoints(f"{place}=raise")
        with pytest.raises(OutcomeUnknown):
            await send(ledger, transfer("alice", "bob", 30, "t"))
    assert await fetch_value(database_url, "select count(*) from transfers where status = 'debited'") == 1
    configure_failpoints("")
    monkeypatch.setattr(saga, "STUCK_AFTER", timedelta(0))
    async with running_ledger(database_url, is_stepwise=True), running_ledger(database_url) as other:
        await eventually(lambda: no_transfer_is_open(database_url))
        answer = await send(other, transfer("alice", "bob", 30, "t"))
    assert (answer.status, answer.replayed) == (201, True)
    types = await fetch_value(database_url, "select array_agg(type order by wallet_id, version) from events")
    assert types == [
        "WalletCreated",
        "FundsDeposited",
        "TransferInitiated",
        "TransferDebited",
        "TransferCompleted",
        "WalletCreated",
        "TransferCredited",
    ]
    await assert_books_are_right(database_url)


async def no_transfer_is_open(database_url: str) -> bool:
    return bool(await fetch_value(database_url, "select count(*) from transfers where status = 'debited'") == 0)


async def test_a_database_that_is_away_means_not_executed_and_then_it_goes_on(
    own_postgres_server: PostgresServer,
) -> None:
    database_url = own_postgres_server.create_database()
    async with running_ledger(database_url, deadline_seconds=1.0) as ledger:
        assert (await send(ledger, deposit("alice", 1, "k1"))).status == 201
        own_postgres_server.stop()
        with pytest.raises((NotExecuted, OutcomeUnknown)):
            await send(ledger, deposit("alice", 1, "k2"))
        own_postgres_server.start()
        answer = await eventually(partial(try_once, ledger, deposit("alice", 1, "k2")), within=30)
        assert answer.status == 201
    assert await fetch_value(database_url, "select balance::text from wallets") == "2.0000"
    await assert_books_are_right(database_url)


async def test_a_command_called_not_executed_while_its_lane_was_still_connecting_is_never_executed(
    database_url: str,
) -> None:
    async with Proxy.to_server_of(database_url) as network:
        async with running_ledger(network.url_of(database_url), deadline_seconds=0.5) as ledger:
            network.silence()
            with pytest.raises(NotExecuted):
                await send(ledger, deposit("alice", 1, "late"))
            network.speak()
            await eventually(partial(try_once, ledger, deposit("alice", 2, "in time")))
        assert await fetch_value(database_url, "select balance::text from wallets") == "2.0000"
        await assert_books_are_right(database_url)


async def test_the_audit_row_of_a_retry_gets_its_status_when_its_transfer_ended_before_it_ran_again(
    database_url: str,
) -> None:
    """The retry finds the transfer pending, and the answer to its COMMIT is lost; meanwhile another process ends it."""
    proxy = PostgresProxy.to_server_of(database_url)
    async with (
        proxy,
        running_ledger(proxy.url_of(database_url), is_stepwise=True) as ledger,
        running_ledger(database_url, is_stepwise=True) as other,
    ):
        await send(ledger, deposit("alice", 100))
        configure_failpoints("saga.after_debit=raise@1")
        with pytest.raises(OutcomeUnknown):
            await send(ledger, transfer("alice", "bob", 30, "t"))
        proxy.cut_after_commit()
        # Connections from now on get nothing through, so that the batch runs again only when the test lets it.
        proxy.network = Network()
        proxy.silence()
        command = transfer("alice", "bob", 30, "t")
        retry = asyncio.create_task(send(ledger, command))
        [cut] = await proxy.commits_cut()
        assert cut.reply == "COMMIT"
        status = "select status from api_audit where api_audit_id = $1"
        assert await fetch_value(database_url, status, command.api_audit_id) is None
        assert (await send(other, transfer("alice", "bob", 30, "t"))).status == 201
        proxy.speak()
        answer = await retry
    assert (answer.status, answer.replayed) == (201, True)
    assert await fetch_value(database_url, status, command.api_audit_id) == 201
    assert await fetch_value(database_url, "select count(*) from api_audit where status is null") == 0
    await assert_books_are_right(database_url)


async def test_the_audit_row_of_a_retry_that_gave_up_gets_its_status_when_recovery_ends_the_transfer(
    database_url: str,
) -> None:
    """The process of the retry is gone by then: the process that ends the transfer finds the row by its key."""
    async with running_ledger(database_url, is_stepwise=True) as ledger:
        await send(ledger, deposit("alice", 100))
        configure_failpoints("saga.after_debit=raise")
        first, retry = transfer("alice", "bob", 30, "t"), transfer("alice", "bob", 30, "t")
        for command in (first, retry):
            with pytest.raises(OutcomeUnknown):
                await send(ledger, command)
    without_status = "select count(*) from api_audit where status is null"
    assert await fetch_value(database_url, without_status) == 2
    configure_failpoints("")
    async with running_ledger(database_url, is_stepwise=True):

        async def have_status() -> bool:
            return bool(await fetch_value(database_url, without_status) == 0)

        await eventually(have_status, within=20)
    status = "select status from api_audit where api_audit_id = $1"
    assert [await fetch_value(database_url, status, each.api_audit_id) for each in (first, retry)] == [201, 201]
    await assert_books_are_right(database_url)
