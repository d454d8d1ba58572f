"""The gathering: order for every wallet, one batch in flight per wallet, bounded room."""

import asyncio
import random

import pytest

from tests.support.ledger import audit_of, deposit, transfer
from wallet.domain.commands import Command
from wallet.ledger.gathering import (
    BATCH_MAX,
    BULK_PATIENCE_SECONDS,
    BULK_REST_FACTOR,
    WAITING_MAX,
    WAITING_PER_WALLET_MAX,
    Gathering,
)
from wallet.ledger.requests import Request, RequestKind


def request(command: Command) -> Request:
    return Request((command,), audit_of(command), 0.0, asyncio.get_running_loop().create_future())


def bulk(*commands: Command, deadline: float = float("inf")) -> Request:
    future = asyncio.get_running_loop().create_future()
    return Request(commands, audit_of(commands[0]), deadline, future, RequestKind.INDEPENDENT)


async def test_what_waits_is_taken_as_one_batch_in_order() -> None:
    gathering = Gathering()
    requests = [request(deposit("a", 1)), request(deposit("b", 1)), request(deposit("a", 2))]
    for each in requests:
        gathering.add(each)
    assert gathering.take(is_bulk=False) == requests


async def test_a_wallet_in_flight_parks_its_requests_and_nobody_elses() -> None:
    gathering = Gathering()
    first, second, other = request(deposit("a", 1)), request(deposit("a", 2)), request(deposit("b", 1))
    gathering.add(first)
    in_flight = gathering.take(is_bulk=False)
    gathering.add(second)
    gathering.add(other)
    assert gathering.take(is_bulk=False) == [other]
    gathering.release(in_flight)
    assert gathering.take(is_bulk=False) == [second]


async def test_a_parked_transfer_keeps_its_place_at_the_other_wallet_too() -> None:
    gathering = Gathering()
    gathering.add(request(deposit("a", 1)))
    in_flight = gathering.take(is_bulk=False)
    through, later = request(transfer("a", "b", 1)), request(deposit("b", 1))
    gathering.add(through)
    gathering.add(later)
    assert gathering.take(is_bulk=False) == []
    gathering.release(in_flight)
    assert gathering.take(is_bulk=False) == [through, later]


async def test_nobody_waits_for_a_request_that_is_over() -> None:
    gathering = Gathering()
    expired, alive = request(deposit("a", 1)), request(deposit("a", 1))
    gathering.add(expired)
    gathering.add(alive)
    expired.future.cancel()
    assert gathering.take(is_bulk=False) == [alive]


async def test_one_hot_wallet_cannot_take_all_the_room() -> None:
    gathering = Gathering()
    for _ in range(WAITING_PER_WALLET_MAX):
        gathering.add(request(deposit("hot", 1)))
    assert "this wallet" in str(gathering.refusal_for(request(deposit("hot", 1))))
    assert gathering.refusal_for(request(deposit("cold", 1))) is None


async def test_a_full_room_refuses_everyone() -> None:
    gathering = Gathering()
    for number in range(WAITING_MAX):
        gathering.add(request(deposit(f"w{number}", 1)))
    assert gathering.refusal_for(request(deposit("late", 1))) is not None


@pytest.mark.parametrize("wallet_count", [3, 50, 3000])
async def test_any_interleaving_keeps_every_wallets_order(seed: int, wallet_count: int) -> None:
    draw = random.Random(seed)
    gathering = Gathering()
    wallets = [f"w{number}" for number in range(wallet_count)]
    sent: dict[str, list[Request]] = {}
    done: dict[str, list[Request]] = {}
    in_flight: list[list[Request]] = []
    to_send = 4000
    while to_send or len(gathering) or in_flight:
        action = draw.random()
        if to_send and action < 0.9:
            one, two = draw.sample(wallets, 2)
            new = request(transfer(one, two, 1) if draw.random() < 0.3 else deposit(one, 1))
            gathering.add(new)
            for wallet_id in new.wallet_ids:
                sent.setdefault(wallet_id, []).append(new)
            to_send -= 1
        elif action < 0.95 and len(in_flight) < 3:
            batch = gathering.take(is_bulk=False)
            assert len(batch) <= BATCH_MAX
            busy = {wallet_id for other in in_flight for each in other for wallet_id in each.wallet_ids}
            assert not busy.intersection(wallet_id for each in batch for wallet_id in each.wallet_ids)
            if batch:
                in_flight.append(batch)
        elif in_flight:
            batch = in_flight.pop(draw.randrange(len(in_flight)))
            for each in batch:
                for wallet_id in each.wallet_ids:
                    done.setdefault(wallet_id, []).append(each)
            gathering.release(batch)
    assert done == sent


async def test_single_requests_overtake_a_bulk_request_that_waits_for_their_wallets() -> None:
    gathering = Gathering()
    single, later, other = request(deposit("a", 1)), request(deposit("b", 2)), request(deposit("c", 1))
    both = bulk(deposit("a", 1), deposit("b", 1))
    for each in (single, both, later, other):
        gathering.add(each)
    assert gathering.take(is_bulk=True) == []
    in_flight = gathering.take(is_bulk=False)
    assert in_flight == [single, later, other]
    assert gathering.take(is_bulk=True) == []
    gathering.release(in_flight)
    assert gathering.take(is_bulk=True) == [both]


async def test_a_single_request_waits_for_a_running_bulk_request_on_its_wallet_only() -> None:
    gathering = Gathering()
    both, again = bulk(deposit("a", 1), deposit("b", 1)), bulk(deposit("a", 1), deposit("b", 1))
    gathering.add(both)
    assert gathering.take(is_bulk=True) == [both]
    waits, free = request(deposit("b", 1)), request(deposit("c", 1))
    for each in (again, waits, free):
        gathering.add(each)
    assert gathering.take(is_bulk=False) == [free]
    gathering.release([both])
    assert gathering.take(is_bulk=False) == [waits]


async def test_a_bulk_request_gets_its_wallets_under_a_steady_stream_of_single_requests() -> None:
    """There is always one in flight and one that waits, so the wallet is never idle by itself."""
    now = [0.0]
    gathering = Gathering(clock_seconds=lambda: now[0])
    everything = bulk(deposit("a", 1), deposit("b", 1), deadline=10.0)
    gathering.add(request(deposit("a", 1)))
    in_flight = gathering.take(is_bulk=False)
    gathering.add(everything)
    while not (taken := gathering.take(is_bulk=True)):
        gathering.add(request(deposit("a", 1)))
        gathering.release(in_flight)
        in_flight = gathering.take(is_bulk=False)
        now[0] += 0.1
        assert now[0] <= BULK_PATIENCE_SECONDS + 0.5
    assert taken == [everything]
    assert now[0] >= BULK_PATIENCE_SECONDS


async def test_a_bulk_request_near_its_deadline_waits_for_less() -> None:
    now = [0.0]
    gathering = Gathering(clock_seconds=lambda: now[0])
    gathering.add(request(deposit("a", 1)))
    in_flight = gathering.take(is_bulk=False)
    late = bulk(deposit("a", 1), deadline=0.4)
    gathering.add(late)
    now[0] = 0.1
    assert not gathering.has_ready(is_bulk=True)
    gathering.add(request(deposit("a", 1)))
    gathering.release(in_flight)
    assert gathering.take(is_bulk=True) == [late]


async def test_wallets_whose_single_requests_waited_for_a_bulk_request_rest_from_bulk_requests() -> None:
    now = [0.0]
    gathering = Gathering(clock_seconds=lambda: now[0])
    first, second = bulk(deposit("a", 1), deadline=10.0), bulk(deposit("a", 1), deadline=10.0)
    gathering.add(first)
    in_flight = gathering.take(is_bulk=True)
    waits = request(deposit("a", 1))
    gathering.add(second)
    gathering.add(waits)
    elsewhere = bulk(deposit("b", 1), deadline=10.0)
    gathering.add(elsewhere)
    now[0] = 2.0
    gathering.release(in_flight)
    assert gathering.take(is_bulk=False) == [waits]
    gathering.release([waits])
    assert gathering.take(is_bulk=True) == [elsewhere]
    gathering.release([elsewhere])
    ends_at = gathering.rest_end_seconds
    assert ends_at == 2.0 + 2.0 * BULK_REST_FACTOR
    now[0] = ends_at - 0.1
    assert not gathering.has_ready(is_bulk=True)
    now[0] = ends_at
    assert gathering.take(is_bulk=True) == [second]


async def test_a_bulk_request_that_expired_with_a_reservation_blocks_nobody() -> None:
    now = [0.0]
    gathering = Gathering(clock_seconds=lambda: now[0])
    gathering.add(request(deposit("a", 1)))
    in_flight = gathering.take(is_bulk=False)
    expired = bulk(deposit("a", 1), deposit("b", 1), deadline=0.1)
    gathering.add(expired)
    now[0] = 0.1
    assert not gathering.has_ready(is_bulk=True)
    behind = request(deposit("b", 1))
    gathering.add(behind)
    assert gathering.take(is_bulk=False) == []
    gathering.cancel(expired)
    assert gathering.take(is_bulk=False) == [behind]
    gathering.release(in_flight)
    gathering.release([behind])
    assert (len(gathering), gathering.has_ready(is_bulk=True)) == (0, False)


async def test_whole_requests_fill_a_batch_and_none_is_split() -> None:
    gathering = Gathering()
    requests = [bulk(*(deposit(f"w{number}", 1) for _ in range(400))) for number in range(3)]
    for each in requests:
        gathering.add(each)
    assert gathering.take(is_bulk=True) == requests[:2]
    assert gathering.take(is_bulk=True) == requests[2:]
