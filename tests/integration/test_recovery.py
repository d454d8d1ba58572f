"""Recovery serves all unfinished transfers: those that cannot end now delay none of the others."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from tests.support.books import assert_books_are_right
from tests.support.database import connected, fetch_value
from tests.support.ledger import deposit, running_ledger, send, send_bulk, transfer
from tests.support.verification import as_owner
from tests.support.waiting import eventually
from wallet.domain.money import AMOUNT_MAX, BALANCE_MAX
from wallet.ledger import saga
from wallet.ledger.ledger import Ledger
from wallet.ledger.requests import OutcomeUnknown
from wallet.runtime.failpoints import configure_failpoints

LOCKED = 200
SOON_SECONDS = 15.0
"""A pass over the locked ones takes 4 s; one after the other, each until its deadline, would take half an hour."""
LOCK = "select from wallets where wallet_id like 'locked-%' for update"
STATUS = "select status from transfers where to_wallet_id = $1"
DEBITED = "select count(*) from transfers where status = 'debited'"


@pytest.fixture(autouse=True)
def _no_failpoints_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(saga, "STUCK_AFTER", timedelta(0))
    yield
    configure_failpoints("")


async def begin_transfers(ledger: Ledger, receivers: list[str]) -> None:
    """Transfers whose driver is lost after the debit, in this order."""
    configure_failpoints("saga.after_debit=raise")
    for receiver in receivers:
        with pytest.raises(OutcomeUnknown):
            await send(ledger, transfer("sender", receiver, 1))
    configure_failpoints("")


async def has_ended(database_url: str, receiver: str) -> bool:
    return bool(await fetch_value(database_url, STATUS, receiver) == "completed")


async def none_is_debited(database_url: str) -> bool:
    return bool(await fetch_value(database_url, DEBITED) == 0)


async def test_a_transfer_that_can_end_does_so_beside_many_whose_receivers_stay_locked(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = [f"locked-{number}" for number in range(LOCKED)]
    with monkeypatch.context() as patch:
        patch.setattr(saga, "STUCK_AFTER", timedelta(hours=1))
        async with running_ledger(database_url, is_stepwise=True) as ledger:
            await send(ledger, deposit("sender", LOCKED + 2))
            await send_bulk(ledger, [deposit(receiver, 1) for receiver in locked])
            await begin_transfers(ledger, [*locked, "free"])
    async with connected(database_url) as outside:
        locking = outside.transaction()
        await locking.start()
        await outside.execute(LOCK)
        with capture_logs() as logs:
            async with running_ledger(database_url, is_stepwise=True):
                await eventually(lambda: has_ended(database_url, "free"), within=SOON_SECONDS)
                assert await fetch_value(database_url, DEBITED) == LOCKED
                await locking.rollback()
                await eventually(lambda: none_is_debited(database_url), within=60)
    lines = [line for line in logs if line["event"] == "transfer_recovery_failed"]
    assert len(lines) <= LOCKED
    await assert_books_are_right(database_url)


@pytest.mark.parametrize("count", [300])
async def test_a_transfer_that_failed_once_and_can_end_now_does_so_beside_many_that_cannot(
    count: int, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the youngest: a recovery that always begins with the oldest would never reach it."""
    locked = [f"locked-{number}" for number in range(count)]
    with monkeypatch.context() as patch:
        patch.setattr(saga, "STUCK_AFTER", timedelta(hours=1))
        async with running_ledger(database_url, is_stepwise=True) as ledger:
            await send(ledger, deposit("sender", count + 1))
            await send_bulk(ledger, [deposit(receiver, 1) for receiver in [*locked, "late"]])
            await begin_transfers(ledger, [*locked, "late"])
    async with connected(database_url) as outside, connected(database_url) as late:
        locking, locking_late = outside.transaction(), late.transaction()
        await locking.start()
        await outside.execute(LOCK)
        await locking_late.start()
        await late.execute("select from wallets where wallet_id = 'late' for update")
        async with running_ledger(database_url, is_stepwise=True) as ledger:

            def has_failed() -> bool:
                return any(each.row["to_wallet_id"] == "late" for each in ledger._recovery._failed.values())

            await eventually(has_failed, within=40)
            await locking_late.rollback()
            await eventually(lambda: has_ended(database_url, "late"), within=SOON_SECONDS)
            assert await fetch_value(database_url, DEBITED) == count
            await locking.rollback()
            await eventually(lambda: none_is_debited(database_url), within=60)
    await assert_books_are_right(database_url)


async def test_a_transfer_whose_time_lies_in_the_future_is_driven_too(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the clock was put back."""
    with monkeypatch.context() as patch:
        patch.setattr(saga, "STUCK_AFTER", timedelta(hours=1))
        async with running_ledger(database_url, is_stepwise=True) as ledger:
            await send(ledger, deposit("sender", 1))
            await begin_transfers(ledger, ["receiver"])
    async with as_owner(database_url) as connection:
        await connection.execute("update transfers set updated_at = now() + interval '1 hour'")
    async with running_ledger(database_url, is_stepwise=True):
        await eventually(lambda: none_is_debited(database_url))
    await assert_books_are_right(database_url)


async def test_a_walk_longer_than_a_page_meets_every_transfer(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one batch have the same time, so the next page must go on in the middle of them."""
    monkeypatch.setattr(saga, "PAGE_MAX", 7)
    monkeypatch.setattr(saga, "ROUND_MAX", 14)
    receivers = [f"receiver-{number}" for number in range(50)]
    with monkeypatch.context() as patch:
        patch.setattr(saga, "STUCK_AFTER", timedelta(hours=1))
        async with running_ledger(database_url, is_stepwise=True) as ledger:
            await send(ledger, deposit("sender", 50))
            configure_failpoints("saga.after_debit=raise")
            with pytest.raises(OutcomeUnknown):
                await send_bulk(ledger, [transfer("sender", receiver, 1) for receiver in receivers])
            configure_failpoints("")
    assert await fetch_value(database_url, "select count(distinct updated_at) from transfers") == 1
    assert await fetch_value(database_url, DEBITED) == len(receivers)
    async with running_ledger(database_url, is_stepwise=True):
        await eventually(lambda: none_is_debited(database_url))
    await assert_books_are_right(database_url)


async def test_money_that_comes_back_has_room_though_the_wallet_was_filled_meanwhile(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sender and receiver are at the limit, so the transfer is refused, and so is a deposit in between."""
    full = int(BALANCE_MAX // AMOUNT_MAX)
    with monkeypatch.context() as patch:
        patch.setattr(saga, "STUCK_AFTER", timedelta(hours=1))
        async with running_ledger(database_url, is_stepwise=True) as ledger:
            for wallet_id in ("sender", "receiver"):
                await send_bulk(ledger, [deposit(wallet_id, int(AMOUNT_MAX)) for _ in range(full)])
            configure_failpoints("saga.after_debit=raise")
            with pytest.raises(OutcomeUnknown):
                await send(ledger, transfer("sender", "receiver", int(AMOUNT_MAX), "t"))
            configure_failpoints("")
            refused = await send(ledger, deposit("sender", int(AMOUNT_MAX)))
            assert (refused.status, b"balance_limit_exceeded" in refused.body) == (400, True)
    async with running_ledger(database_url, is_stepwise=False) as ledger:
        await eventually(lambda: none_is_debited(database_url))
        again = await send(ledger, transfer("sender", "receiver", int(AMOUNT_MAX), "t"))
        assert (again.status, again.replayed) == (409, True)
    await assert_books_are_right(database_url)
