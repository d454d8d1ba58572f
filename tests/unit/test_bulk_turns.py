"""The turns of bulk requests: two under way for each address, the others in order, and room for everybody."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.support.waiting import eventually
from wallet.ledger.bulk_turns import BULK_MAX, BULK_UNDER_WAY_MAX, PACE_FACTOR, BulkTurns
from wallet.ledger.requests import NotExecuted

FAR_SECONDS = 60.0


class Bulk:
    """A bulk request that is under way from its turn until the test ends it."""

    def __init__(self, turns: BulkTurns, address: str, *, deadline_seconds: float = FAR_SECONDS) -> None:
        self.is_under_way = False
        self.refusal = ""
        self.has_begun = asyncio.Event()
        self._end = asyncio.Event()
        deadline = asyncio.get_running_loop().time() + deadline_seconds
        self.task = asyncio.create_task(self._run(turns, address, deadline))

    async def _run(self, turns: BulkTurns, address: str, deadline: float) -> None:
        try:
            async with turns.turn(address, deadline):
                self.is_under_way = True
                self.has_begun.set()
                await self._end.wait()
        except NotExecuted as refusal:
            self.refusal = str(refusal)
        finally:
            self.is_under_way = False

    async def end(self) -> None:
        self._end.set()
        await self.task


@pytest.fixture(autouse=True)
async def _no_task_afterwards() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    for task in asyncio.all_tasks() - before:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def under_way(bulks: list[Bulk]) -> list[int]:
    return [number for number, bulk in enumerate(bulks) if bulk.is_under_way]


async def until_quiet() -> None:
    """Run a few rounds of the event loop, so that every task runs until it waits."""
    loop = asyncio.get_running_loop()
    for _ in range(5):
        round_over = loop.create_future()
        loop.call_soon(round_over.set_result, None)
        await round_over


async def test_an_address_has_two_under_way_and_its_others_follow_in_order() -> None:
    turns = BulkTurns()
    bulks = [Bulk(turns, "one") for _ in range(5)]
    other = Bulk(turns, "other")
    await until_quiet()
    assert BULK_UNDER_WAY_MAX == 2
    assert (under_way(bulks), other.is_under_way, turns.waiting_count) == ([0, 1], True, 3)
    await bulks[1].end()
    await until_quiet()
    assert under_way(bulks) == [0, 2]
    await bulks[0].end()
    await until_quiet()
    assert under_way(bulks) == [2, 3]
    for bulk in (*bulks[2:], other):
        await bulk.end()
    assert turns.waiting_count == 0


async def test_one_that_expires_or_is_cancelled_gives_its_place_to_the_next() -> None:
    turns = BulkTurns()
    bulks = [Bulk(turns, "one") for _ in range(2)]
    await until_quiet()
    expiring = Bulk(turns, "one", deadline_seconds=0.01)
    cancelled, last = Bulk(turns, "one"), Bulk(turns, "one")
    await eventually(expiring.task.done)
    assert "before the request's turn came" in expiring.refusal
    cancelled.task.cancel()
    await until_quiet()
    await bulks[0].end()
    await until_quiet()
    assert last.is_under_way


async def test_a_turn_that_comes_as_its_request_is_cancelled_goes_to_the_next() -> None:
    turns = BulkTurns()
    bulks = [Bulk(turns, "one") for _ in range(4)]
    await until_quiet()
    await bulks[0].end()
    # Its turn has come, and it has not run since.
    bulks[2].task.cancel()
    await until_quiet()
    assert under_way(bulks) == [1, 3]


async def test_an_address_that_fills_the_room_loses_its_newest_to_others_and_no_more_than_is_fair() -> None:
    turns = BulkTurns()
    greedy = [Bulk(turns, "greedy") for _ in range(BULK_MAX)]
    await until_quiet()
    assert len(under_way(greedy)) == BULK_UNDER_WAY_MAX
    assert turns.waiting_count == BULK_MAX - BULK_UNDER_WAY_MAX
    one_more = Bulk(turns, "greedy")
    await until_quiet()
    assert f"{BULK_MAX} bulk requests" in one_more.refusal
    others = [Bulk(turns, "other") for _ in range(BULK_MAX)]
    await until_quiet()
    lost = [bulk for bulk in greedy if bulk.refusal]
    refused = [bulk for bulk in others if bulk.refusal]
    assert lost == greedy[BULK_MAX // 2 :]
    assert refused == others[BULK_MAX // 2 :]
    assert "other clients" in lost[0].refusal
    assert len(under_way(others)) == BULK_UNDER_WAY_MAX


async def wait_of_the_third(turns: BulkTurns) -> float:
    """Seconds from the begin of the first two bulk requests of an address until that of its next one."""
    loop = asyncio.get_running_loop()
    deadline, began_at = loop.time() + 5, loop.time()
    async with turns.turn("client", deadline), turns.turn("client", deadline):
        pass
    async with turns.turn("client", deadline):
        return loop.time() - began_at


async def test_beside_many_single_requests_an_address_is_paced_and_other_addresses_do_not_wait() -> None:
    turns = BulkTurns()
    turns.note_batch(0.02, commands=1, singles=50)
    pace_seconds = PACE_FACTOR * 0.02
    bulks = [Bulk(turns, "hostile") for _ in range(4)]
    await until_quiet()
    assert under_way(bulks) == [0, 1]
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    for bulk in bulks[:2]:
        await bulk.end()
    async with asyncio.timeout(0.1), turns.turn("honest", began_at + 5):
        pass
    for number, bulk in enumerate(bulks[2:], start=1):
        await bulk.has_begun.wait()
        assert loop.time() - began_at >= 0.9 * number * pace_seconds
    for bulk in bulks[2:]:
        await bulk.end()


async def test_an_address_whose_pace_is_over_may_begin_two_at_once_again() -> None:
    turns = BulkTurns()
    turns.note_batch(0.01, commands=1, singles=50)
    await wait_of_the_third(turns)
    loop = asyncio.get_running_loop()
    is_over_at = loop.time() + 3 * PACE_FACTOR * 0.01
    await eventually(lambda: loop.time() >= is_over_at)
    bulks = [Bulk(turns, "client") for _ in range(3)]
    await until_quiet()
    assert under_way(bulks) == [0, 1]


async def test_a_paced_request_that_is_cancelled_or_expires_does_not_hold_up_the_next() -> None:
    turns = BulkTurns()
    turns.note_batch(0.02, commands=1, singles=50)
    bulks = [Bulk(turns, "client") for _ in range(2)]
    await until_quiet()
    for bulk in bulks:
        await bulk.end()
    expiring = Bulk(turns, "client", deadline_seconds=0.01)
    cancelled, next_one = Bulk(turns, "client"), Bulk(turns, "client")
    await eventually(expiring.task.done)
    assert "before the request's turn came" in expiring.refusal
    cancelled.task.cancel()
    await next_one.has_begun.wait()


@pytest.mark.parametrize(("singles", "is_paced"), [(20, True), (19, False), (0, False)])
async def test_the_pace_begins_at_twenty_single_requests_a_second(singles: int, is_paced: bool) -> None:
    """A slow machine answers few while bulk requests run: at 100 there was no pace just where it was needed."""
    turns = BulkTurns()
    turns.note_batch(1.0, commands=100, singles=singles)
    assert (await wait_of_the_third(turns) >= 0.9 * PACE_FACTOR * 0.01) is is_paced


async def test_requests_that_began_before_anything_was_measured_are_paced_by_what_they_cost() -> None:
    turns = BulkTurns()
    bulks = [Bulk(turns, "client") for _ in range(4)]
    await until_quiet()
    turns.note_batch(0.01, commands=1, singles=50)
    loop = asyncio.get_running_loop()
    ended_at = loop.time()
    for bulk in bulks[:2]:
        await bulk.end()
    await until_quiet()
    assert under_way(bulks) == []
    await bulks[2].has_begun.wait()
    assert loop.time() - ended_at >= 0.8 * PACE_FACTOR * 0.01
