"""A PostgreSQL whose clock is wrong: no batch is executed at its time, and its clients get the reason."""

import pytest

from tests.support.api import running_api
from tests.support.books import assert_books_are_right
from tests.support.database import fetch_value
from tests.support.ledger import deposit, running_ledger, send, transfer
from tests.support.other_clock import set_clock
from wallet.ledger.requests import NotExecuted

DEPOSIT = "/wallet/alice/deposit"
BALANCE = "select balance::text from wallets where wallet_id = 'alice'"


@pytest.mark.parametrize(
    ("difference", "detail"),
    [("10 years", "s ahead of this"), ("-2 minutes", "PostgreSQL's clock is 1"), ("62 seconds", "s ahead of this")],
)
async def test_no_batch_is_executed_at_a_wrong_time_and_the_answer_says_why(
    database_url: str, difference: str, detail: str
) -> None:
    await set_clock(database_url, difference)
    async with running_api(database_url) as api:
        refused = await api.post(DEPOSIT, '{"amount":1,"requestId":"d1"}')
        bulk = await api.post(
            "/operations",
            '{"mode":"atomic","operations":[{"type":"deposit","walletId":"alice","amount":1,"requestId":"d2"}]}',
        )
        assert await fetch_value(database_url, "select count(*) from events") == 0
        # The same sessions, so that it is the clock's return that ends it.
        await set_clock(database_url, "0 seconds")
        again = await api.post(DEPOSIT, '{"amount":1,"requestId":"d1"}')
    for answer in (refused, bulk):
        assert (answer.status, answer.code) == (503, "not_executed")
        assert detail in answer.json["detail"]
        assert "CLOCK_DIFFERENCE_MAX_SECONDS allows 60 s" in answer.json["detail"]
        assert answer.headers["retry-after"] == "1"
    assert again.status == 201
    await assert_books_are_right(database_url)


async def test_a_small_difference_or_a_higher_limit_stops_nothing(database_url: str) -> None:
    await set_clock(database_url, "50 seconds")
    async with running_api(database_url) as api:
        assert (await api.post(DEPOSIT, '{"amount":1}')).status == 201
    await set_clock(database_url, "10 minutes")
    async with running_api(database_url, clock_difference_max_seconds=700) as api:
        assert (await api.post(DEPOSIT, '{"amount":1}')).status == 201
    await set_clock(database_url, "0 seconds")
    assert await fetch_value(database_url, BALANCE) == "2.0000"


async def test_no_step_of_a_transfer_is_executed_at_a_wrong_time(database_url: str) -> None:
    async with running_ledger(database_url, is_stepwise=True) as ledger:
        await send(ledger, deposit("alice", 10))
    await set_clock(database_url, "1 hour")
    async with running_ledger(database_url, is_stepwise=True) as ledger:
        with pytest.raises(NotExecuted, match=r"3,[0-9]+\.[0-9] s ahead"):
            await send(ledger, transfer("alice", "bob", 3, "t"))
        await set_clock(database_url, "0 seconds")
        assert (await send(ledger, transfer("alice", "bob", 3, "t"))).status == 201
    await assert_books_are_right(database_url)
