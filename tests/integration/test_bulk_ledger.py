"""Bulk requests through the real ledger: order, replays, a separate lane, and an orderly stop."""

import asyncio
from random import Random

import msgspec

from tests.support.books import assert_books_are_right
from tests.support.database import fetch_value
from tests.support.ledger import audit_of, deposit, running_ledger, send, send_bulk, transfer, withdraw
from tests.support.waiting import eventually
from wallet.api.contract.reply import RENDER
from wallet.domain.commands import Command
from wallet.domain.identifiers import WalletId
from wallet.ledger.deciding import KnownWallets
from wallet.ledger.lane import Lane
from wallet.ledger.requests import Answer, Request
from wallet.ledger.transaction import BatchMode
from wallet.postgres.connections import connect
from wallet.postgres.migrations import migrate

WAITS_FOR_A_LOCK = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"

MODE = BatchMode(stepwise=False, clock_difference_max_seconds=60.0)


def random_commands(random: Random, count: int, wallets: int) -> list[Command]:
    """Deposits, withdrawals and transfers over a few wallets; some keys come twice."""
    names = [f"w{number}" for number in range(wallets)]
    made: list[Command] = []
    for _ in range(count):
        sender, receiver = random.sample(names, 2)
        key, amount = f"k{random.randrange(count)}", random.randrange(1, 100)
        choices: list[Command] = [deposit(sender, amount, key), withdraw(sender, amount, key)]
        made.append(random.choice([*choices, transfer(sender, receiver, amount, key)]))
    return made


async def test_a_bulk_request_gives_what_its_commands_would_give_one_at_a_time(
    database_url: str, empty_database_url: str, seed: int
) -> None:
    commands = random_commands(Random(seed), 300, 8)
    async with running_ledger(database_url) as ledger:
        together = (await send_bulk(ledger, commands)).results
        assert [same(answer) for answer in (await send_bulk(ledger, commands)).results] == list(map(same, together))
    await assert_books_are_right(database_url)
    await migrate(empty_database_url)
    async with running_ledger(empty_database_url) as ledger:
        alone = [await send(ledger, command) for command in commands]
    assert list(map(same, together)) == list(map(same, alone))


async def test_an_atomic_refusal_moves_nothing_and_is_replayed_for_the_whole_request(database_url: str) -> None:
    refused: list[Command] = [deposit("a", 10, "1"), withdraw("a", 4, "2"), transfer("a", "b", 7, "3")]
    async with running_ledger(database_url) as ledger:
        first = await send_bulk(ledger, refused, is_atomic=True)
        again = await send_bulk(ledger, refused, is_atomic=True)
        assert first.refusal is not None
        assert (first.status, first.results, first.replayed) == (400, (), False)
        assert msgspec.json.decode(first.refusal.body)["index"] == 2
        assert again.refusal is not None
        assert (again.refusal.body, again.replayed) == (first.refusal.body, True)
        alone = await send(ledger, deposit("a", 10, "1"))
        assert alone.status == 422
        done = await send_bulk(ledger, [deposit("a", 10, "4"), transfer("a", "b", 7, "5")], is_atomic=True)
        assert [answer.status for answer in done.results] == [201, 201]
    assert await fetch_value(database_url, "select count(*) from operations where not success") == 3
    assert await fetch_value(database_url, "select count(*) from events") == 7
    await assert_books_are_right(database_url)


async def test_bulk_and_single_requests_on_the_same_wallets_at_once_leave_right_books(
    database_url: str, seed: int
) -> None:
    random = Random(seed)
    names = [f"w{number}" for number in range(5)]

    def some(count: int) -> list[Command]:
        pairs = [random.sample(names, 2) for _ in range(count)]
        choices: list[list[Command]] = [[deposit(a, 5), withdraw(a, 3), transfer(a, b, 2)] for a, b in pairs]
        return list(map(random.choice, choices))

    async with running_ledger(database_url) as ledger, asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(send_bulk(ledger, some(50), is_atomic=random.random() < 0.5))
        for command in some(400):
            tasks.create_task(send(ledger, command))
    await assert_books_are_right(database_url)


async def test_a_single_request_does_not_wait_behind_bulk_requests_on_other_wallets(database_url: str) -> None:
    async with running_ledger(database_url) as ledger:
        bulk = [asyncio.create_task(send_bulk(ledger, [deposit("many", 1) for _ in range(1000)])) for _ in range(8)]
        await send(ledger, deposit("one", 1))
        assert not all(task.done() for task in bulk)
        await asyncio.gather(*bulk)
    await assert_books_are_right(database_url)


async def test_the_transfers_of_a_stepwise_bulk_request_all_end(database_url: str) -> None:
    async with running_ledger(database_url, is_stepwise=True) as ledger:
        await send(ledger, deposit("hub", 1000))
        commands = [transfer("hub", f"r{number}", 1) for number in range(100)]
        answers = (await send_bulk(ledger, commands)).results
        assert {answer.status for answer in answers} == {201}
        again = (await send_bulk(ledger, commands)).results
        assert list(map(same, again)) == list(map(same, answers))
    await assert_books_are_right(database_url)


async def test_a_ledger_stops_while_one_lane_works_and_the_other_is_idle(database_url: str) -> None:
    """A lane that found others still at work when the ledger was draining must be notified when they are done."""
    holder = await connect(database_url, application_name="holder")
    try:
        async with asyncio.timeout(10), running_ledger(database_url) as ledger:
            await send(ledger, deposit("locked", 1))
            transaction = holder.transaction()
            await transaction.start()
            await holder.fetch("select from wallets for update")
            waiting = [asyncio.create_task(send(ledger, deposit("locked", 1)))]
            await eventually(lambda: fetch_value(database_url, WAITS_FOR_A_LOCK), within=5, every=0.01)
            waiting += [asyncio.create_task(send(ledger, deposit("locked", 1))) for _ in range(2)]
            await eventually(lambda: ledger.waiting_count >= 2, within=5, every=0.01)
            ledger.stop()
            await transaction.rollback()
            assert [answer.status for answer in await asyncio.gather(*waiting)] == [201, 201, 201]
    finally:
        await holder.close()


async def test_a_wallet_that_was_thought_to_exist_is_made_all_the_same(database_url: str) -> None:
    """What a process remembers of the wallets is a hint: the database may have been restored meanwhile."""
    known = KnownWallets()
    known.remember([WalletId("ghost")])
    lane = Lane(database_url, name="test", render=RENDER, known=known)
    command = deposit("ghost", 1)
    request = Request((command,), audit_of(command), float("inf"), asyncio.get_running_loop().create_future())
    await lane.process([request], mode=MODE, defer=lambda _requests, _locked: None)
    lane.close()
    [answer] = (await request.future).answers
    assert answer is not None
    assert answer.status == 201
    await assert_books_are_right(database_url)


def same(answer: Answer) -> tuple[int, object]:
    """What must be equal of two answers: everything but the ids that the service made."""
    body = msgspec.json.decode(answer.body)
    return answer.status, {name: value for name, value in body.items() if name != "transferId"}
