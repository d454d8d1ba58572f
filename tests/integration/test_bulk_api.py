"""Bulk requests over HTTP on a real database: what single routes would give, or all or nothing."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import asyncpg
import pytest

from tests.support.api import RunningApi, running_api
from tests.support.books import assert_books_are_right
from tests.support.database import fetch_rows
from tests.support.postgres import PostgresServer
from tests.support.raw_http import RawAnswer
from tests.support.waiting import eventually
from wallet.api.services import Executes
from wallet.domain.commands import Command
from wallet.ledger.requests import Answer, BulkAnswer, CommandFailed, NotExecuted, OutcomeUnknown
from wallet.trail.records import TrailRecord

Operation = dict[str, Any]
BOOKS = ("wallets", "events", "operations", "transfers", "transfer_credits", "journal")


def deposit_operation(wallet_id: str, amount: object, key: str) -> Operation:
    return {"type": "deposit", "walletId": wallet_id, "amount": amount, "requestId": key}


def withdraw_operation(wallet_id: str, amount: object, key: str) -> Operation:
    return {"type": "withdraw", "walletId": wallet_id, "amount": amount, "requestId": key}


def transfer_operation(wallet_id: str, to_wallet_id: str, amount: object, key: str) -> Operation:
    return {
        "type": "transfer", "walletId": wallet_id, "toWalletId": to_wallet_id, "amount": amount, "requestId": key,
    }  # fmt: skip


async def bulk(api: RunningApi, mode: str, *operations: Any) -> RawAnswer:
    return await api.post("/operations", json.dumps({"mode": mode, "operations": operations}))


async def single(api: RunningApi, operation: Operation) -> RawAnswer:
    fields = {name: value for name, value in operation.items() if name not in ("type", "walletId")}
    return await api.post(f"/wallet/{operation['walletId']}/{operation['type']}", json.dumps(fields))


async def balances(api: RunningApi, *wallet_ids: str) -> list[str]:
    return [(await api.get(f"/wallet/{wallet_id}")).json["balance"] for wallet_id in wallet_ids]


async def books(database_url: str) -> list[int]:
    """How many rows each table of the books has."""
    counts = ", ".join(f"(select count(*) from {table}) as {table}" for table in BOOKS)
    (row,) = await fetch_rows(database_url, f"select {counts}")
    return list(row.values())


async def audit_rows(database_url: str, count: int) -> list[asyncpg.Record]:
    """The trail rows in the order of the requests, once there are so many."""

    async def rows() -> list[asyncpg.Record]:
        found = await fetch_rows(database_url, "select * from api_audit order by api_audit_id")
        assert len(found) == count
        return found

    return await eventually(rows)


MIX = [
    deposit_operation("alice", "100.5", "d1"),
    withdraw_operation("alice", 0.5, "w1"),
    withdraw_operation("alice", "1000", "w2"),
    withdraw_operation("nobody", 1, "w3"),
    transfer_operation("alice", "bob", 25, "t1"),
    transfer_operation("bob", "alice", 26, "t2"),
    transfer_operation("nobody", "bob", 1, "t3"),
    deposit_operation("alice", "100.50", "d1"),
    deposit_operation("bob", "1.0001", "d1"),
]
REUSED = deposit_operation("alice", "7", "d1")
INVALID = [
    transfer_operation("alice", "alice", 1, "t4"),
    deposit_operation("alice", "-1", "d2"),
    deposit_operation("alice", "1", "no spaces"),
    withdraw_operation("alice", None, "w4") | {"requestId": 7},
    transfer_operation("alice", "b/c", "1e2", "t5"),
]


@pytest.fixture
def other_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A second database, to do the same in another way."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


async def test_independent_operations_get_what_their_own_routes_give(
    database_url: str, other_database_url: str
) -> None:
    operations = [*MIX, REUSED, *INVALID, *MIX]
    async with running_api(database_url) as api, running_api(other_database_url) as other:
        answer = await bulk(api, "independent", *operations)
        alone = [await single(other, operation) for operation in operations]
        assert await balances(api, "alice", "bob") == await balances(other, "alice", "bob")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert "idempotency-replayed" not in answer.headers
    results = answer.json["results"]
    assert [result["status"] for result in results] == [one.status for one in alone]
    # A key that is there twice has its answer again, but from no earlier request.
    assert {result["replayed"] for result in results} == {False}
    for result, one in zip(results, alone, strict=True):
        assert result["body"] | {"transferId": ""} == one.json | {"transferId": ""}
    assert {result["status"] for result in results} == {201, 400, 404, 422}
    assert await books(database_url) == [*(await books(other_database_url))[:-1], 1]
    await assert_books_are_right(database_url)


async def test_a_bulk_request_sent_again_gets_its_first_answers(database_url: str) -> None:
    async with running_api(database_url) as api:
        first = await bulk(api, "independent", *MIX, *INVALID)
        stored = await books(database_url)
        again = await bulk(api, "independent", *MIX, *INVALID)
        partly = await bulk(api, "independent", MIX[0], deposit_operation("alice", 1, "new"))
    assert [result | {"replayed": None} for result in first.json["results"]] == [
        result | {"replayed": None} for result in again.json["results"]
    ]
    assert [result["replayed"] for result in again.json["results"]] == [True] * len(MIX) + [False] * len(INVALID)
    assert again.headers["idempotency-replayed"] == "true"
    assert [result["replayed"] for result in partly.json["results"]] == [True, False]
    assert "idempotency-replayed" not in partly.headers
    assert stored[1:3] == [count - 1 for count in (await books(database_url))[1:3]]


async def test_keys_are_the_same_on_every_route(database_url: str) -> None:
    async with running_api(database_url) as api:
        alone = await single(api, deposit_operation("alice", 1, "a"))
        in_bulk = await bulk(
            api, "independent", deposit_operation("alice", "1.0", "a"), deposit_operation("alice", 2, "b")
        )
        alone_again = await single(api, deposit_operation("alice", 2, "b"))
        assert await balances(api, "alice") == ["3.0000"]
    results = in_bulk.json["results"]
    assert (results[0]["status"], results[0]["replayed"], results[0]["body"]) == (201, True, alone.json)
    assert alone_again.headers["idempotency-replayed"] == "true"
    # To the byte: what stands between the result's braces is what the single route sends.
    assert b'"body":' + alone.body + b"}" in in_bulk.body
    assert b'"body":' + alone_again.body + b"}" in in_bulk.body


async def test_an_atomic_request_takes_effect_as_one(database_url: str) -> None:
    operations = [
        deposit_operation("alice", 10, "a"),
        transfer_operation("alice", "bob", 4, "b"),
        withdraw_operation("bob", "1.5", "c"),
    ]
    async with running_api(database_url) as api:
        first = await bulk(api, "atomic", *operations)
        stored = await books(database_url)
        again = await bulk(api, "atomic", *operations)
        assert await balances(api, "alice", "bob") == ["6.0000", "2.5000"]
    assert (first.status, again.status) == (200, 200)
    assert [result["status"] for result in first.json["results"]] == [201, 201, 201]
    assert first.json["results"][1]["body"]["fromBalance"] == "6.0000"
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.body == first.body.replace(b'"replayed":false', b'"replayed":true')
    assert stored[-1] == 1
    assert await books(database_url) == stored
    await assert_books_are_right(database_url)


async def test_the_first_refusal_refuses_an_atomic_request_for_good(database_url: str) -> None:
    operations = [
        deposit_operation("alice", 10, "a"),
        transfer_operation("alice", "bob", 4, "b"),
        withdraw_operation("bob", 5, "c"),
        withdraw_operation("nobody", 1, "d"),
    ]
    async with running_api(database_url) as api:
        refused = await bulk(api, "atomic", *operations)
        assert await balances(api, "alice", "bob") == ["0.0000", "0.0000"]
        await single(api, deposit_operation("bob", 100, "x"))
        again = await bulk(api, "atomic", *operations)
        reused = [await single(api, operation) for operation in operations]
        assert await balances(api, "alice", "bob") == ["0.0000", "100.0000"]
    assert (refused.status, refused.code) == (400, "insufficient_funds")
    assert (refused.json["index"], refused.json["requestId"]) == (2, "c")
    assert refused.json["detail"].startswith("Operation 2: ")
    assert "idempotency-replayed" not in refused.headers
    assert (again.status, again.body) == (refused.status, refused.body)
    assert again.headers["idempotency-replayed"] == "true"
    assert [one.code for one in reused] == ["idempotency_key_reused"] * 4
    assert "in an atomic request" in reused[0].json["detail"]
    assert [row["type"] for row in await fetch_rows(database_url, "select type from events order by version")] == [
        "WalletCreated",
        "FundsDeposited",
    ]
    await assert_books_are_right(database_url)


@pytest.mark.parametrize(
    ("operations", "index"),
    [
        (
            [deposit_operation("alice", 10, "a"), deposit_operation("alice", 2, "b"), deposit_operation("bob", 1, "c")],
            None,
        ),
        ([deposit_operation("alice", 1, "a"), deposit_operation("alice", 2, "b")], 0),
        ([deposit_operation("alice", 2, "b"), deposit_operation("alice", 10, "a")], 0),
        ([deposit_operation("alice", 10, "a")], 0),
        ([deposit_operation("alice", 1, "alone"), deposit_operation("alice", 3, "new")], 0),
    ],
    ids=["more", "other amount", "other order", "fewer", "a key used alone"],
)
async def test_the_keys_of_an_atomic_request_stand_for_the_whole_of_it(
    database_url: str, operations: list[Operation], index: int | None
) -> None:
    async with running_api(database_url) as api:
        await bulk(api, "atomic", deposit_operation("alice", 10, "a"), deposit_operation("alice", 2, "b"))
        await single(api, deposit_operation("alice", 1, "alone"))
        stored = await books(database_url)
        refused = await bulk(api, "atomic", *operations)
        assert await balances(api, "alice", "bob") == ["13.0000", "0.0000"]
        assert await books(database_url) == stored
        independent = await bulk(api, "independent", *operations)
    assert (refused.status, refused.code) == (422, "idempotency_key_reused")
    assert refused.json["detail"].startswith(f"Operation {refused.json['index']}: ")
    assert index is None or refused.json["index"] == index
    known = {"a": 422, "b": 422, "alone": 201}
    assert [result["status"] for result in independent.json["results"]] == [
        known.get(operation["requestId"], 201) for operation in operations
    ]


async def test_a_bulk_request_has_one_audit_row_that_everything_of_it_names(database_url: str) -> None:
    async with running_api(database_url) as api:
        await bulk(api, "independent", *MIX)
        await bulk(api, "atomic", deposit_operation("carol", 1, "a"), transfer_operation("carol", "dave", 1, "b"))
        await bulk(api, "atomic", deposit_operation("erin", 1, "c"), withdraw_operation("erin", 2, "d"))
        await bulk(api, "independent", *INVALID)
        await bulk(api, "atomic", *INVALID)
        rows = await audit_rows(database_url, 5)
    assert [row["status"] for row in rows] == [200, 200, 400, 200, 400]
    assert {(row["method"], row["url"], row["wallet_id"], row["request_id"]) for row in rows} == {
        ("POST", "/operations", None, None)
    }
    counted = {}
    for table in ("events", "operations"):
        found = await fetch_rows(database_url, f"select api_audit_id, count(*) from {table} group by 1")
        counted[table] = {row["api_audit_id"]: row["count"] for row in found}
    independent, atomic, refused, *_ = (row["api_audit_id"] for row in rows)
    assert counted["events"].keys() == {independent, atomic}
    assert counted["operations"] == {independent: 8, atomic: 2, refused: 2}


@pytest.mark.parametrize("mode", ["independent", "atomic"])
async def test_a_thousand_operations_are_one_commit(database_url: str, mode: str) -> None:
    operations = [deposit_operation("rich", 1000, "first")]
    operations += [transfer_operation("rich", f"wallet-{number % 100}", "0.5", f"t{number}") for number in range(999)]
    async with running_api(database_url) as api:
        answer = await bulk(api, mode, *operations)
        again = await bulk(api, mode, *operations)
        assert await balances(api, "rich", "wallet-0") == ["500.5000", "5.0000"]
    assert [result["status"] for result in answer.json["results"]] == [201] * 1000
    assert answer.json["results"][-1]["body"]["fromBalance"] == "500.5000"
    assert again.body == answer.body.replace(b'"replayed":false', b'"replayed":true')
    assert (await books(database_url))[-1] == 1
    await assert_books_are_right(database_url)


async def test_requests_that_meet_in_the_same_wallets_all_take_effect(database_url: str) -> None:
    """Half of them the other way round, so that locks taken in the order of operations would deadlock."""

    def crossing(number: int) -> list[Operation]:
        pairs = [("a", "b"), ("b", "c"), ("c", "a")]
        moves = [transfer_operation(one, two, 1, f"{number}-{one}") for one, two in pairs]
        return moves if number % 2 else moves[::-1]

    async with running_api(database_url) as api:
        await bulk(api, "atomic", *(deposit_operation(wallet_id, 1000, "first") for wallet_id in "abc"))
        answers = await asyncio.gather(
            *(bulk(api, "atomic" if number % 3 else "independent", *crossing(number)) for number in range(60))
        )
        assert await balances(api, *"abc") == ["1000.0000"] * 3
    assert {answer.status for answer in answers} == {200}
    assert {result["status"] for answer in answers for result in answer.json["results"]} == {201}
    await assert_books_are_right(database_url)


async def test_stepwise_an_atomic_request_is_refused_by_name_and_an_independent_one_is_served(
    database_url: str,
) -> None:
    async with running_api(database_url, transfer_mode="stepwise") as api:
        refused = await bulk(api, "atomic", deposit_operation("alice", 1, "a"))
        assert await books(database_url) == [0] * len(BOOKS)
        served = await bulk(
            api, "independent", deposit_operation("alice", 5, "a"), transfer_operation("alice", "bob", 2, "b")
        )
        again = await bulk(
            api, "independent", deposit_operation("alice", 5, "a"), transfer_operation("alice", "bob", 2, "b")
        )
        assert await balances(api, "alice", "bob") == ["3.0000", "2.0000"]
    assert (refused.status, refused.code) == (400, "atomic_not_available")
    assert [result["status"] for result in served.json["results"]] == [201, 201]
    assert again.body == served.body.replace(b'"replayed":false', b'"replayed":true')
    await assert_books_are_right(database_url)


class FailingInBulk:
    """A ledger in front of the real one that fails at the first bulk request."""

    def __init__(self, inner: Executes, error: Exception) -> None:
        self._inner = inner
        self._errors = [error]

    async def execute(self, command: Command, record: TrailRecord) -> Answer:
        return await self._inner.execute(command, record)

    async def execute_bulk(
        self, commands: Sequence[Command], record: TrailRecord, *, client: str, is_atomic: bool
    ) -> BulkAnswer:
        if self._errors:
            raise self._errors.pop()
        return await self._inner.execute_bulk(commands, record, client=client, is_atomic=is_atomic)


@pytest.mark.parametrize("mode", ["independent", "atomic"])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NotExecuted("The service is busy."), 503, "not_executed"),
        (OutcomeUnknown(), 503, "outcome_unknown"),
        (CommandFailed(), 500, "internal_error"),
    ],
)
async def test_a_failure_says_to_send_the_whole_request_again(
    database_url: str, mode: str, error: Exception, status: int, code: str
) -> None:
    async with running_api(database_url, around_ledger=lambda ledger: FailingInBulk(ledger, error)) as api:
        failed = await bulk(api, mode, *MIX[:2])
        again = await bulk(api, mode, *MIX[:2])
    assert (failed.status, failed.code) == (status, code)
    assert "requestId" not in failed.json
    assert status == 500 or "Send the whole request again" in failed.json["detail"]
    assert [result["status"] for result in again.json["results"]] == [201, 201]
    assert [row["status"] for row in await audit_rows(database_url, 2)] == [status, 200]
