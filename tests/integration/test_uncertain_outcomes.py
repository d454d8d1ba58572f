"""What a retry is answered while an earlier attempt with its key may still take effect: never `not_executed`."""

import asyncio
import json
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.api import RunningApi, running_api
from tests.support.books import assert_books_are_right
from tests.support.database import fetch_value
from tests.support.ledger import deposit, running_ledger, send, send_bulk, transfer
from tests.support.postgres import PostgresServer
from tests.support.postgres_proxy import PostgresProxy
from tests.support.raw_http import RawAnswer
from tests.support.waiting import eventually
from wallet.api.edge.incoming import BodyLimits
from wallet.domain.commands import Command
from wallet.ledger.gathering import WAITING_PER_WALLET_MAX
from wallet.ledger.ledger import Ledger
from wallet.ledger.requests import Answer, BulkAnswer, NotExecuted, OutcomeUnknown
from wallet.runtime.failpoints import configure_failpoints

DEADLINE_SECONDS = 1.5
FINISHED_SECONDS_MAX = 30.0
DEPOSIT = "/wallet/alice/deposit"
EITHER_MODE = pytest.mark.parametrize("is_atomic", [False, True], ids=["independent", "atomic"])
WAITS_FOR_STANDBY = """
select 1 from pg_stat_activity where application_name like 'wallet api lane%' and wait_event = 'SyncRep'
"""
BALANCE = "select balance::text from wallets where wallet_id = 'alice'"


@pytest.fixture(autouse=True)
def _no_failpoints_afterwards() -> Iterator[None]:
    yield
    configure_failpoints("")


async def finished(ledger: Ledger, command: Command) -> Answer | None:
    try:
        return await send(ledger, command)
    except (NotExecuted, OutcomeUnknown):
        return None


async def finished_bulk(ledger: Ledger, commands: list[Command], *, is_atomic: bool) -> BulkAnswer | None:
    try:
        return await send_bulk(ledger, commands, is_atomic=is_atomic)
    except (NotExecuted, OutcomeUnknown):
        return None


async def test_a_retry_is_not_answered_not_executed_while_the_first_commit_hangs(
    own_postgres_server: PostgresServer,
) -> None:
    database_url = own_postgres_server.create_database()
    async with running_api(database_url, request_deadline_seconds=DEADLINE_SECONDS) as api:
        assert (await api.post(DEPOSIT, '{"amount":1,"requestId":"d0"}')).status == 201
        own_postgres_server.hang_commits()
        body = '{"amount":5,"requestId":"d1"}'
        tries = [await api.post(DEPOSIT, body) for _ in range(3)]
        # It waits for the wallet, which the first attempt has locked, and was never begun itself.
        other = await api.post(DEPOSIT, '{"amount":7,"requestId":"d2"}')
        own_postgres_server.release_commits()
        last = await eventually(partial(definite, api, body), within=FINISHED_SECONDS_MAX)
        balance = json.loads((await api.get("/wallet/alice")).body)["balance"]
    assert [(each.status, each.code) for each in tries] == [(503, "outcome_unknown")] * 3
    assert [each.headers["retry-after"] for each in tries] == ["1"] * 3
    assert [each.json["requestId"] for each in tries] == ["d1"] * 3
    assert (other.status, other.code, other.json["requestId"]) == (503, "not_executed", "d2")
    assert "This attempt had no effect" in other.json["detail"]
    assert "Retry with key d2" in other.json["detail"]
    assert (last.status, last.headers["idempotency-replayed"]) == (201, "true")
    assert balance == "6.0000"
    await assert_books_are_right(database_url)


async def definite(api: RunningApi, body: str) -> RawAnswer | None:
    answer = await api.post(DEPOSIT, body)
    return None if answer.status == 503 else answer


async def test_an_attempt_whose_connection_is_gone_may_still_commit_in_the_server(
    own_postgres_server: PostgresServer,
) -> None:
    database_url = own_postgres_server.create_database()
    proxy = PostgresProxy.to_server_of(database_url)
    async with proxy, running_ledger(proxy.url_of(database_url), deadline_seconds=DEADLINE_SECONDS) as ledger:
        await send(ledger, deposit("alice", 1))
        own_postgres_server.hang_commits()
        with pytest.raises(OutcomeUnknown):
            await send(ledger, deposit("alice", 5, "d1"))
        proxy.cut()
        for _ in range(2):
            with pytest.raises(OutcomeUnknown):
                await send(ledger, deposit("alice", 5, "d1"))
        with pytest.raises(NotExecuted):
            await send(ledger, deposit("alice", 5, "d2"))
        own_postgres_server.release_commits()
        answer = await eventually(partial(finished, ledger, deposit("alice", 5, "d1")), within=FINISHED_SECONDS_MAX)
    assert (answer.status, answer.replayed) == (201, True)
    assert await fetch_value(database_url, BALANCE) == "6.0000"
    await assert_books_are_right(database_url)


@EITHER_MODE
async def test_a_retry_of_a_bulk_request_is_not_answered_not_executed_while_its_commit_hangs(
    own_postgres_server: PostgresServer, is_atomic: bool
) -> None:
    database_url = own_postgres_server.create_database()
    commands: list[Command] = [deposit("alice", 5, "d1"), deposit("bob", 2, "d2")]
    async with running_ledger(database_url, deadline_seconds=DEADLINE_SECONDS) as ledger:
        await send_bulk(ledger, [deposit("alice", 1), deposit("bob", 1)])
        own_postgres_server.hang_commits()
        for _ in range(2):
            with pytest.raises(OutcomeUnknown):
                await send_bulk(ledger, commands, is_atomic=is_atomic)
        # One of its operations alone is an attempt with that key too, and one with another key beside it as well.
        with pytest.raises(OutcomeUnknown):
            await send(ledger, deposit("bob", 2, "d2"))
        with pytest.raises(OutcomeUnknown):
            await send_bulk(ledger, [deposit("carol", 1, "new"), deposit("bob", 2, "d2")])
        own_postgres_server.release_commits()
        again = await eventually(
            partial(finished_bulk, ledger, commands, is_atomic=is_atomic), within=FINISHED_SECONDS_MAX
        )
    assert [(answer.status, answer.replayed) for answer in again.results] == [(201, True)] * 2
    assert await fetch_value(database_url, BALANCE) == "6.0000"
    await assert_books_are_right(database_url)


async def test_a_retry_that_finds_no_room_is_not_answered_not_executed_while_the_first_attempt_waits_or_hangs(
    own_postgres_server: PostgresServer,
) -> None:
    database_url = own_postgres_server.create_database()
    async with running_ledger(database_url, deadline_seconds=8.0) as ledger:
        await send(ledger, deposit("alice", 1))
        own_postgres_server.hang_commits()
        first = asyncio.create_task(send(ledger, deposit("alice", 5, "d1")))
        await eventually(lambda: fetch_value(database_url, WAITS_FOR_STANDBY))
        waiting = [
            asyncio.create_task(send(ledger, deposit("alice", 1, f"w{number}")))
            for number in range(WAITING_PER_WALLET_MAX)
        ]
        await eventually(lambda: ledger.waiting_count == WAITING_PER_WALLET_MAX)
        for key, amount in (("d1", 5), ("w7", 1)):
            with pytest.raises(OutcomeUnknown, match="The service is busy"):
                await send(ledger, deposit("alice", amount, key))
        with pytest.raises(NotExecuted):
            await send(ledger, deposit("alice", 1, "new"))
        own_postgres_server.release_commits()
        assert (await first).status == 201
        assert {answer.status for answer in await asyncio.gather(*waiting)} == {201}
    assert await fetch_value(database_url, BALANCE) == f"{WAITING_PER_WALLET_MAX + 6}.0000"
    await assert_books_are_right(database_url)


@pytest.mark.parametrize("place", ["ledger.after_commit", "saga.after_debit", "saga.after_credit"])
async def test_an_unknown_outcome_stays_unknown_until_the_key_has_its_answer(database_url: str, place: str) -> None:
    command, is_stepwise = transfer("alice", "bob", 5, "t"), place.startswith("saga")
    async with running_ledger(database_url, is_stepwise=is_stepwise) as ledger:
        await send(ledger, deposit("alice", 100))
        configure_failpoints(f"{place}=raise@1")
        with pytest.raises(OutcomeUnknown):
            await send(ledger, command)
        assert ledger.may_concern(*command.key)
        # An answer that the key belongs to another request says nothing about how that one ended.
        assert (await send(ledger, transfer("alice", "bob", 6, "t"))).status == 422
        assert ledger.may_concern(*command.key)
        assert (await send(ledger, command)).status == 201
        assert not ledger.may_concern(*command.key)
        configure_failpoints(f"{place}=raise@1")
        with pytest.raises(OutcomeUnknown):
            await send(ledger, transfer("alice", "bob", 5, "last"))
        ledger.stop()
        with pytest.raises(OutcomeUnknown, match="stopping"):
            await send(ledger, transfer("alice", "bob", 5, "last"))
        with pytest.raises(NotExecuted):
            await send(ledger, transfer("alice", "bob", 5, "new"))
    async with running_ledger(database_url, is_stepwise=is_stepwise) as ledger:
        assert (await send(ledger, transfer("alice", "bob", 5, "last"))).status == 201
    await assert_books_are_right(database_url)


async def test_a_retry_whose_body_is_refused_is_not_answered_not_executed_while_the_first_commit_hangs(
    own_postgres_server: PostgresServer,
) -> None:
    """The memory for bodies is used up, so nobody reads which key the retry has."""
    database_url = own_postgres_server.create_database()
    limits = BodyLimits(bodies_bytes_max=150)
    body = '{"amount":5,"requestId":"d1"}'
    async with running_api(database_url, body_limits=limits, request_deadline_seconds=DEADLINE_SECONDS) as api:
        assert (await api.post(DEPOSIT, '{"amount":1,"requestId":"d0"}')).status == 201
        own_postgres_server.hang_commits()
        assert (await api.post(DEPOSIT, body)).code == "outcome_unknown"
        too_large = body.ljust(200)
        assert (await api.post(DEPOSIT, too_large)).code == "outcome_unknown"
        assert (await api.post(DEPOSIT, too_large, "Idempotency-Key: another")).code == "not_executed"
        assert (await api.post("/wallet/bob/deposit", too_large)).code == "not_executed"
        assert (await api.post("/operations", too_large)).code == "outcome_unknown"
        own_postgres_server.release_commits()
