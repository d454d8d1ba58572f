"""`asOf`, `createdAt` and `updatedAt` of the statistics, over both transports and with several workers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import RunningApi, running_api
from tests.support.database import connected, fetch_value
from tests.support.relay import relay_settings, running_relay
from tests.support.waiting import eventually
from tests.support.worker import RULES, Wire, until
from wallet.worker.rebuild import rebuild

BREAK_CURSED = """
create function break_cursed() returns trigger language plpgsql as $$
begin
    raise exception 'a handler bug';
end
$$;
create trigger break_cursed before insert or update on wallet_stats
    for each row when (new.wallet_id = 'cursed') execute function break_cursed()
"""
FIX_CURSED = "drop trigger break_cursed on wallet_stats"
DISCARD = "update dead_letters set state = 'discarded', actor = 'test', reason = 'a test' where state = 'open'"


@pytest.fixture(params=["rabbitmq", "journal"])
def wire(request: pytest.FixtureRequest, database_url: str) -> Wire:
    """Each of the two transports in turn."""
    has_broker = request.param == "rabbitmq"
    return Wire(database_url, request.getfixturevalue("rabbitmq_url") if has_broker else None)


@asynccontextmanager
async def api_and_relay(wire: Wire, log_dir: Path) -> AsyncIterator[RunningApi]:
    settings = relay_settings(wire.database_url, wire.rabbitmq_url, log_dir)
    async with running_api(wire.database_url) as api, running_relay(settings):
        yield api


async def stats_of(api: RunningApi, wallet_id: str) -> dict[str, Any]:
    answer = await api.get(f"/wallet/{wallet_id}/stats")
    assert answer.status == 200
    stats: dict[str, Any] = answer.json
    return {
        name: datetime.fromisoformat(value) if name in ("asOf", "createdAt", "updatedAt") and value else value
        for name, value in stats.items()
    }


async def time_after_deposit(api: RunningApi, wire: Wire, wallet_id: str) -> datetime:
    """Deposits 1. Returns a time after the answer, by PostgreSQL's clock."""
    answer = await api.post(f"/wallet/{wallet_id}/deposit", '{"amount":1}')
    assert answer.status == 201
    now = await fetch_value(wire.database_url, "select clock_timestamp()")
    assert isinstance(now, datetime)
    return now


async def stats_as_of(api: RunningApi, wallet_id: str, moment: datetime) -> dict[str, Any]:
    """Wait for the first statistics that claim to be complete up to this time."""
    found: dict[str, Any] = {}

    async def reaches() -> bool:
        found.update(await stats_of(api, wallet_id))
        return found["asOf"] is not None and found["asOf"] >= moment

    await eventually(reaches, within=30)
    return found


async def test_a_change_that_was_answered_before_as_of_is_in_the_totals(wire: Wire, tmp_path: Path) -> None:
    async def deposit_and_check(wallet_id: str) -> None:
        for count in range(1, 5):
            answered_at = await time_after_deposit(api, wire, wallet_id)
            stats = await stats_as_of(api, wallet_id, answered_at)
            assert stats["totalDeposited"] == f"{count}.0000"

    async with api_and_relay(wire, tmp_path) as api, wire.worker(), wire.worker():
        await asyncio.gather(*(deposit_and_check(f"wallet-{number}") for number in range(6)))


async def test_the_times_of_the_row_are_those_of_its_first_and_last_change(wire: Wire, tmp_path: Path) -> None:
    async with api_and_relay(wire, tmp_path) as api, wire.worker():
        unknown = await stats_of(api, "alice")
        first = await stats_as_of(api, "alice", await time_after_deposit(api, wire, "alice"))
        second = await stats_as_of(api, "alice", await time_after_deposit(api, wire, "alice"))
        other = await stats_as_of(api, "nobody", second["asOf"])
    assert unknown["createdAt"] is unknown["updatedAt"] is other["createdAt"] is other["updatedAt"] is None
    assert first["createdAt"] == first["updatedAt"]
    assert second["createdAt"] == first["createdAt"]
    assert second["updatedAt"] > first["updatedAt"]
    assert second["lastActivityAt"] < second["updatedAt"].isoformat(timespec="microseconds")


async def test_it_moves_on_while_idle_and_stands_still_without_a_worker(wire: Wire, tmp_path: Path) -> None:
    async with api_and_relay(wire, tmp_path) as api:
        assert (await stats_of(api, "alice"))["asOf"] is None
        async with wire.worker():
            answered_at = await time_after_deposit(api, wire, "alice")
            idle = await stats_as_of(api, "alice", answered_at)
            later = await stats_as_of(api, "alice", idle["asOf"].replace(microsecond=999_999))
            assert later["totalDeposited"] == "1.0000"
        last = (await stats_of(api, "alice"))["asOf"]
        answered_at = await time_after_deposit(api, wire, "alice")
        assert (await stats_of(api, "alice"))["asOf"] == last < answered_at


@pytest.mark.parametrize("cure", ["rebuilt", "discarded"])
async def test_an_event_that_waits_as_a_dead_letter_holds_it_back(wire: Wire, tmp_path: Path, cure: str) -> None:
    async with connected(wire.database_url) as connection, api_and_relay(wire, tmp_path) as api:
        await connection.execute(BREAK_CURSED)
        async with wire.worker():
            before = await time_after_deposit(api, wire, "alice")
            await stats_as_of(api, "alice", before)
            cursed_at = await time_after_deposit(api, wire, "cursed")
            await until(connection.fetch, "select from dead_letters where state = 'open'")
            after = await time_after_deposit(api, wire, "alice")
            await until(connection.fetch, "select from wallet_stats where wallet_id = 'alice' and total_deposited = 2")
            # Two checks later at the latest it would have moved on.
            checks = "select checked_at from stats_progress"
            for _ in range(3):
                checked_at = await connection.fetchval(checks)
                await until(connection.fetch, f"{checks} where checked_at > $1", checked_at)
            deferred = await stats_of(api, "alice")
            assert before <= deferred["asOf"] < cursed_at
            if cure == "rebuilt":
                await connection.execute(FIX_CURSED)
                await rebuild(wire.database_url, RULES)
            else:
                await connection.execute(DISCARD)
            assert (await stats_as_of(api, "alice", after))["totalDeposited"] == "2.0000"
