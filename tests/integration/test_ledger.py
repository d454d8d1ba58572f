"""The ledger on a real PostgreSQL: what parallel requests, replays and refusals leave in the books."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.support.books import assert_books_are_right
from tests.support.database import fetch_value
from tests.support.ledger import deposit, running_ledger, send, transfer, withdraw
from wallet.domain.commands import Command
from wallet.ledger.ledger import Ledger
from wallet.ledger.requests import Answer

BOTH_MODES = pytest.mark.parametrize("is_stepwise", [False, True], ids=["whole", "stepwise"])


async def send_all(ledger: Ledger, commands: Sequence[Command]) -> list[Answer]:
    return list(await asyncio.gather(*(send(ledger, command) for command in commands)))


def balance_in(answer: Answer) -> str:
    return str(json.loads(answer.body)["balance"])


async def test_a_first_deposit_makes_the_wallet(database_url: str) -> None:
    async with running_ledger(database_url) as ledger:
        first = await send(ledger, deposit("alice", 100, "k1"))
        second = await send(ledger, deposit("alice", "0.5", "k2"))
    assert json.loads(first.body) == {
        "walletId": "alice",
        "balance": "100.0000",
        "requestId": "k1",
        "created": True,
    }
    assert json.loads(second.body)["created"] is False
    assert balance_in(second) == "100.5000"
    await assert_books_are_right(database_url)


async def test_fifty_parallel_first_deposits_make_one_wallet(database_url: str) -> None:
    async with running_ledger(database_url) as ledger, running_ledger(database_url) as other:
        commands = [deposit("alice", 1) for _ in range(50)]
        halves = await asyncio.gather(send_all(ledger, commands[:25]), send_all(other, commands[25:]))
    answers = [answer for half in halves for answer in half]
    assert {answer.status for answer in answers} == {201}
    assert sum(json.loads(answer.body)["created"] for answer in answers) == 1
    assert sorted(float(balance_in(answer)) for answer in answers) == list(range(1, 51))
    await assert_books_are_right(database_url)


@BOTH_MODES
async def test_twenty_senders_to_one_new_receiver_all_arrive(database_url: str, is_stepwise: bool) -> None:
    async with running_ledger(database_url, is_stepwise=is_stepwise) as ledger:
        await send_all(ledger, [deposit(f"sender-{number}", 10) for number in range(20)])
        answers = await send_all(ledger, [transfer(f"sender-{number}", "new", 10) for number in range(20)])
    assert {answer.status for answer in answers} == {201}
    assert await fetch_value(database_url, "select balance::text from wallets where wallet_id = 'new'") == "200.0000"
    await assert_books_are_right(database_url)


@BOTH_MODES
async def test_a_storm_between_two_wallets_neither_deadlocks_nor_loses_money(
    database_url: str, is_stepwise: bool
) -> None:
    async with (
        running_ledger(database_url, is_stepwise=is_stepwise) as ledger,
        running_ledger(database_url, is_stepwise=is_stepwise) as other,
    ):
        await send_all(ledger, [deposit("a", 1000), deposit("b", 1000)])
        there = [transfer("a", "b", 1) for _ in range(150)]
        back = [transfer("b", "a", 1) for _ in range(150)]
        halves = await asyncio.gather(
            send_all(ledger, [*there[:75], *back[:75]]), send_all(other, [*back[75:], *there[75:]])
        )
    assert Counter(answer.status for half in halves for answer in half) == {201: 300}
    assert await fetch_value(database_url, "select sum(balance)::text from wallets") == "2000.0000"
    await assert_books_are_right(database_url)


@BOTH_MODES
async def test_the_same_key_two_hundred_times_at_once_has_one_effect(database_url: str, is_stepwise: bool) -> None:
    async with (
        running_ledger(database_url, is_stepwise=is_stepwise) as ledger,
        running_ledger(database_url, is_stepwise=is_stepwise) as other,
    ):
        await send(ledger, deposit("alice", 100, "first"))
        for build in (
            lambda: deposit("alice", 7, "d"),
            lambda: withdraw("alice", 3, "w"),
            lambda: transfer("alice", "bob", 2, "t"),
            lambda: withdraw("alice", 1000, "refused"),
            lambda: withdraw("nobody", 1, "absent"),
            lambda: deposit("carol", 1, "new"),
        ):
            halves = await asyncio.gather(
                send_all(ledger, [build() for _ in range(100)]), send_all(other, [build() for _ in range(100)])
            )
            answers = [answer for half in halves for answer in half]
            assert len({(answer.status, answer.body) for answer in answers}) == 1
            assert sum(not answer.replayed for answer in answers) == 1
    assert await fetch_value(database_url, "select balance::text from wallets where wallet_id = 'alice'") == "102.0000"
    assert await fetch_value(database_url, "select count(*) from api_audit") == 1 + 6 * 200
    await assert_books_are_right(database_url)


@BOTH_MODES
async def test_a_key_reused_for_another_request_moves_nothing(database_url: str, is_stepwise: bool) -> None:
    async with running_ledger(database_url, is_stepwise=is_stepwise) as ledger:
        await send(ledger, deposit("alice", 100, "k"))
        others: list[Command] = [
            deposit("alice", 101, "k"),
            withdraw("alice", 100, "k"),
            transfer("alice", "bob", 100, "k"),
        ]
        answers = await send_all(ledger, others)
        again = await send(ledger, deposit("alice", "100.00", "k"))
    assert [json.loads(answer.body)["code"] for answer in answers] == ["idempotency_key_reused"] * 3
    assert {answer.status for answer in answers} == {422}
    assert again.replayed
    assert await fetch_value(database_url, "select sum(balance)::text from wallets") == "100.0000"
    await assert_books_are_right(database_url)


@BOTH_MODES
async def test_refusals_are_stored_and_replayed_even_when_they_would_succeed_by_now(
    database_url: str, is_stepwise: bool
) -> None:
    async with running_ledger(database_url, is_stepwise=is_stepwise) as ledger:
        refused = await send(ledger, transfer("alice", "bob", 10, "t"))
        await send(ledger, deposit("alice", 100))
        retried = await send(ledger, transfer("alice", "bob", 10, "t"))
    assert json.loads(refused.body)["code"] == "wallet_not_found"
    assert (retried.status, retried.body, retried.replayed) == (404, refused.body, True)
    assert await fetch_value(database_url, "select count(*) from wallets") == 1
    await assert_books_are_right(database_url)


async def test_a_credit_over_the_limit_is_refused_before_the_debit(database_url: str) -> None:
    async with running_ledger(database_url) as ledger:
        await fill_to_the_limit(ledger, "rich")
        await send(ledger, deposit("alice", 50))
        direct = await send(ledger, deposit("rich", 1))
        through = await send(ledger, transfer("alice", "rich", 1))
    assert [json.loads(answer.body)["code"] for answer in (direct, through)] == ["balance_limit_exceeded"] * 2
    assert [answer.status for answer in (direct, through)] == [400, 400]
    assert await fetch_value(database_url, "select count(*) from transfers") == 0
    await assert_books_are_right(database_url)


async def test_a_credit_refused_after_the_debit_brings_the_money_back(database_url: str) -> None:
    async with running_ledger(database_url, is_stepwise=True) as ledger:
        await fill_to_the_limit(ledger, "rich")
        await send(ledger, deposit("alice", 50))
        answer = await send(ledger, transfer("alice", "rich", 1, "t"))
        again = await send(ledger, transfer("alice", "rich", 1, "t"))
    assert (answer.status, json.loads(answer.body)["code"]) == (409, "transfer_failed")
    assert (again.body, again.replayed) == (answer.body, True)
    assert await fetch_value(database_url, "select balance::text from wallets where wallet_id = 'alice'") == "50.0000"
    types = await fetch_value(
        database_url, "select array_agg(type order by version) from events where wallet_id = 'alice' and version > 2"
    )
    assert types == ["TransferInitiated", "TransferDebited", "TransferCompensated", "TransferFailed"]
    await assert_books_are_right(database_url)


async def test_five_hundred_writers_on_one_hot_wallet_keep_every_version(database_url: str) -> None:
    async with running_ledger(database_url) as ledger:
        answers = await send_all(ledger, [deposit("hot", 1) for _ in range(500)])
    assert {answer.status for answer in answers} == {201}
    # The wallet's first batch is small, the rest gathers: far fewer transactions than deposits.
    assert await fetch_value(database_url, "select count(*) < 50 from journal")
    assert await fetch_value(database_url, "select max(version) from events") == 501
    await assert_books_are_right(database_url)


async def test_a_burst_of_mixed_commands_leaves_right_books(database_url: str, seed: int) -> None:
    draw = random.Random(seed)
    wallets = [f"w{number}" for number in range(20)]
    commands: list[Command] = []
    for number in range(1500):
        one, two = draw.sample(wallets, 2)
        key, amount = f"k{number % 1200}", draw.randint(1, 50)
        choices: list[Command] = [
            deposit(one, amount, key),
            withdraw(one, amount, key),
            transfer(one, two, amount, key),
        ]
        commands.append(draw.choice(choices))
    async with running_ledger(database_url) as ledger, running_ledger(database_url, is_stepwise=True) as other:
        await asyncio.gather(send_all(ledger, commands[:750]), send_all(other, commands[750:]))
    await assert_books_are_right(database_url)


async def fill_to_the_limit(ledger: Ledger, wallet_id: str) -> None:
    for _ in range(99):
        assert (await send(ledger, deposit(wallet_id, 10**14))).status == 201
    last = await send(ledger, deposit(wallet_id, "99999999999999.9999"))
    assert balance_in(last) == "9999999999999999.9999"
