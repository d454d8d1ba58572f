"""The gathering against a model that scans everything that waits, whatever is added, taken, released or removed."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.ledger import audit_of, deposit, transfer
from wallet.domain.identifiers import WalletId
from wallet.ledger import gathering as module
from wallet.ledger.gathering import BULK_PATIENCE_SECONDS, BULK_REST_FACTOR, Gathering
from wallet.ledger.requests import Request, RequestKind

BATCH_MAX = 4
LANES = 3
DEADLINE_SECONDS = 6.0
NAMES = [WalletId(name) for name in "abcdef"]
WALLETS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True)
BULK_WALLETS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=5)
STEPS = st.one_of(
    st.tuples(st.just("single"), WALLETS),
    st.tuples(st.just("single"), WALLETS),
    st.tuples(st.just("bulk"), BULK_WALLETS),
    st.tuples(st.just("take"), st.booleans()),
    st.tuples(st.just("take"), st.booleans()),
    st.tuples(st.just("release"), st.integers(0, LANES)),
    st.tuples(st.just("expire"), st.integers(0, 100)),
    st.tuples(st.just("take waiting"), WALLETS),
    st.tuples(st.just("time"), st.sampled_from([0.1, 0.5, 1.0])),
)


@pytest.fixture(scope="module", autouse=True)
def _small_batches() -> Iterator[None]:
    with mock.patch.object(module, "BATCH_MAX", BATCH_MAX):
        yield


@dataclass
class Model:
    """Keeps lists, and derives everything from them each time."""

    now: float = 0.0
    singles: list[Request] = field(default_factory=list)
    bulks: list[tuple[Request, float]] = field(default_factory=list)
    reserved: Request | None = None
    behind_reserved: set[Request] = field(default_factory=set)
    in_flight: list[tuple[list[Request], float]] = field(default_factory=list)
    rests: dict[WalletId, float] = field(default_factory=dict)
    rest_until: float = 0.0

    def busy(self) -> set[WalletId]:
        return {wallet_id for batch, _ in self.in_flight for each in batch for wallet_id in each.wallet_ids}

    def take_singles(self) -> list[Request]:
        """In order of arrival: each whose wallets are free of other batches and of whatever must go before it."""
        busy, batch = self.busy(), list[Request]()
        over: list[Request] = []
        blocked: set[WalletId] = set()
        for request in self.singles:
            if len(batch) == BATCH_MAX:
                break
            ids = set(request.wallet_ids)
            reserved = set(self.reserved.wallet_ids) if self.reserved and request in self.behind_reserved else set()
            if ids & (busy | blocked | reserved):
                blocked |= ids
            else:
                (over if request.is_over else batch).append(request)
        self.singles = [each for each in self.singles if each not in batch and each not in over]
        return batch

    def advance_bulk(self) -> None:
        self.rests = {wallet_id: until for wallet_id, until in self.rests.items() if until > self.now}
        if self.reserved or self.rests or any(batch[0].is_bulk for batch, _ in self.in_flight) or not self.bulks:
            return
        oldest, due_at = self.bulks[0]
        if self.blocked(oldest) and due_at <= self.now:
            self.reserved, self.behind_reserved = oldest, set()

    def blocked(self, bulk: Request) -> bool:
        waited_for = {wallet_id for each in self.singles for wallet_id in each.wallet_ids}
        reserved = set(self.reserved.wallet_ids) if self.reserved else set()
        return bool(set(bulk.wallet_ids) & (self.busy() | waited_for | reserved | self.rests.keys()))

    def take_bulk(self) -> list[Request]:
        self.advance_bulk()
        if self.reserved:
            ids = set(self.reserved.wallet_ids)
            before = [each for each in self.singles if each not in self.behind_reserved]
            if ids & self.busy() or any(ids & set(each.wallet_ids) for each in before):
                return []
            batch, self.reserved = [self.reserved], None
        else:
            batch, count = [], 0
            for bulk, _ in self.bulks:
                if not self.blocked(bulk):
                    count += len(bulk.commands)
                    if batch and count > BATCH_MAX:
                        break
                    batch.append(bulk)
        self.bulks = [(bulk, due_at) for bulk, due_at in self.bulks if bulk not in batch]
        return batch

    def release(self, number: int) -> list[Request]:
        batch, since = self.in_flight.pop(number)
        if batch[0].is_bulk:
            ids = {wallet_id for each in batch for wallet_id in each.wallet_ids}
            waited_for = ids & {wallet_id for each in self.singles for wallet_id in each.wallet_ids}
            if waited_for:
                self.rest_until = max(self.now + BULK_REST_FACTOR * (self.now - since), self.rest_until)
                # A wallet that rests already goes on as it is.
                self.rests |= {each: self.rest_until for each in waited_for if each not in self.rests}
        return batch

    def remove(self, gone: list[Request]) -> None:
        self.singles = [each for each in self.singles if each not in gone]
        self.bulks = [(bulk, due_at) for bulk, due_at in self.bulks if bulk not in gone]
        if self.reserved in gone:
            self.reserved = None


@settings(max_examples=300)
@given(st.lists(STEPS, max_size=60))
def test_the_gathering_does_what_the_model_does(steps: list[tuple[str, object]]) -> None:
    loop = asyncio.new_event_loop()
    try:
        comparison = Comparison(loop)
        comparison.run(steps)
        assert comparison.is_empty()
    finally:
        loop.close()


class Comparison:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.model = Model()
        self.gathering = Gathering(clock_seconds=lambda: self.model.now)

    def run(self, steps: list[tuple[str, object]]) -> None:
        for name, argument in steps:
            getattr(self, name.replace(" ", "_"))(argument)
            assert len(self.gathering) == len(self.model.singles) + len(self.model.bulks)
            self.model.advance_bulk()
            if self.gathering.has_ready(is_bulk=True):
                self.take(True)
        self.drain()

    def single(self, wallet_ids: list[WalletId]) -> None:
        command = deposit(wallet_ids[0], 1) if len(wallet_ids) == 1 else transfer(wallet_ids[0], wallet_ids[-1], 1)
        request = Request((command,), None, self.model.now + DEADLINE_SECONDS, self.loop.create_future())
        self.model.singles.append(request)
        if self.model.reserved:
            self.model.behind_reserved.add(request)
        self.gathering.add(request)

    def bulk(self, wallet_ids: list[WalletId]) -> None:
        commands = tuple(deposit(wallet_id, 1) for wallet_id in wallet_ids)
        deadline = self.model.now + DEADLINE_SECONDS
        request = Request(commands, audit_of(commands[0]), deadline, self.loop.create_future(), RequestKind.INDEPENDENT)
        self.model.bulks.append((request, self.model.now + min(BULK_PATIENCE_SECONDS, DEADLINE_SECONDS / 4)))
        self.gathering.add(request)

    def take(self, is_bulk: bool) -> None:
        bulk_runs = any(batch[0].is_bulk for batch, _ in self.model.in_flight)
        if bulk_runs if is_bulk else len(self.model.in_flight) - bulk_runs == LANES:
            return
        expected = self.model.take_bulk() if is_bulk else self.model.take_singles()
        taken = self.gathering.take(is_bulk=is_bulk)
        assert taken == expected
        if taken:
            wallets = {wallet_id for each in taken for wallet_id in each.wallet_ids}
            assert not wallets & self.model.busy()
            self.model.in_flight.append((taken, self.model.now))

    def release(self, number: int) -> None:
        if self.model.in_flight:
            self.gathering.release(self.model.release(number % len(self.model.in_flight)))

    def expire(self, number: int) -> None:
        waiting = [*self.model.singles, *(bulk for bulk, _ in self.model.bulks)]
        if waiting:
            request = waiting[number % len(waiting)]
            request.future.cancel()
            if request.is_bulk:
                self.model.remove([request])
                self.gathering.cancel(request)

    def take_waiting(self, wallet_ids: list[WalletId]) -> None:
        waiting = [*self.model.singles, *(bulk for bulk, _ in self.model.bulks)]
        expected = [each for each in waiting if set(each.wallet_ids) & set(wallet_ids)]
        expected.sort(key=lambda each: each.place)
        self.model.remove(expected)
        assert self.gathering.take_waiting(set(wallet_ids)) == expected

    def time(self, seconds: float) -> None:
        self.model.now += seconds

    def drain(self) -> None:
        """Take all that waits."""
        while len(self.gathering) or self.model.in_flight:
            before = len(self.gathering), len(self.model.in_flight)
            self.take(False)
            self.take(True)
            self.release(0)
            self.time(0.1)
            if before == (len(self.gathering), len(self.model.in_flight)):
                self.time(DEADLINE_SECONDS * 10)
                self.take(True)
                assert self.model.in_flight, "something waits for nothing"

    def is_empty(self) -> bool:
        """Whether nothing is left behind, not even an empty line, once the last rest has ended."""
        self.time(DEADLINE_SECONDS * 10)
        return not self.gathering.has_ready(is_bulk=True) and not self.gathering._lines
