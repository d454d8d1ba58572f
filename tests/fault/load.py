"""A load whose outcome is known: requests are a pure function of the seed, and every attempt is recorded.

It uses the stress tool's plan, client and exchanges: a request is sent again with its key until its outcome is
known, to the next api each time. Meanwhile the books are summed, each time in one statement, so at one moment.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal

import asyncpg

from tests.fault.bulk import send_bulk
from tests.support.waiting import eventually, pause
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.stress.client import Client, open_client
from wallet.stress.exchanges import TriedRequest
from wallet.stress.operations import Key, Plan

PATIENCE_SECONDS = 90.0
BULK_SIZE = 20
SAMPLE_SECONDS = 0.1
CONNECT_SECONDS_MAX = 5.0
CONSERVATION = """
select (select coalesce(sum(balance), 0) from wallets)
    + coalesce(sum(amount) filter (where type = 'TransferDebited'), 0)
    - coalesce(sum(amount) filter (where type in ('TransferCredited', 'TransferCompensated')), 0)
    - coalesce(sum(amount) filter (where type = 'FundsDeposited'), 0)
    + coalesce(sum(amount) filter (where type = 'FundsWithdrawn'), 0)
from events
"""


Start = tuple[str, float]
"""The address of a process, and a time shortly before it was started."""


@dataclass
class History:
    """The requests and their outcomes, and the sums of the books meanwhile."""

    plan: Plan
    exchanges: list[TriedRequest] = field(default_factory=list)
    sums: list[Decimal] = field(default_factory=list)
    """How much money had been created (+) or lost (−) at each moment of the run: zero if everything is right."""
    bulk_keys: set[Key] = field(default_factory=set)
    """The keys that were sent in bulk requests, which have one audit trail row for all of their operations."""

    starts: Sequence[Start] = ()
    """The starts of the processes to which requests were sent, including those before the run."""

    async def more_answers(self, count: int, *, within: float = PATIENCE_SECONDS) -> None:
        """Wait until this many more requests have ended."""
        wanted = len(self.exchanges) + count
        await eventually(lambda: len(self.exchanges) >= wanted, within=within)


@asynccontextmanager
async def load_on(
    urls: Sequence[str],
    database_url: str,
    plan: Plan,
    *,
    concurrency: int,
    count: int | None = None,
    bulk_senders: int = 0,
    pause_seconds: float = 0.0,
) -> AsyncIterator[History]:
    """Send requests as long as the block runs, but at most `count`; then wait for the requests in progress.

    A plan's requests are sent in order of their numbers, each as soon as one of `concurrency` senders is free; of
    these, `bulk_senders` send bulk requests. Each sender waits `pause_seconds` after a request.
    """
    history = History(plan)
    is_over = asyncio.Event()
    numbers = itertools.count() if count is None else iter(range(count))
    async with (
        open_client(*urls, concurrency=concurrency, patience_seconds=PATIENCE_SECONDS) as client,
        asyncio.TaskGroup() as tasks,
    ):
        sends = [_send_bulk] * bulk_senders + [_send] * (concurrency - bulk_senders)
        senders = [tasks.create_task(send(client, history, numbers, is_over.is_set, pause_seconds)) for send in sends]
        tasks.create_task(_sample(database_url, history, is_over))
        try:
            yield history
            if count is not None:
                await asyncio.gather(*senders)
        finally:
            is_over.set()


async def _send(
    client: Client, history: History, numbers: Iterator[int], is_over: Callable[[], bool], pause_seconds: float
) -> None:
    while not is_over():
        number = next(numbers, None)
        if number is None:
            return
        history.exchanges.append(await client.send(history.plan.request(number)))
        await pause(pause_seconds)


async def _send_bulk(
    client: Client, history: History, numbers: Iterator[int], is_over: Callable[[], bool], pause_seconds: float
) -> None:
    while not is_over():
        requests = [history.plan.request(number) for number in itertools.islice(numbers, BULK_SIZE)]
        if not requests:
            return
        history.bulk_keys.update(request.operation.key for request in requests)
        history.exchanges += await send_bulk(client, requests)
        await pause(pause_seconds)


async def _sample(database_url: str, history: History, is_over: asyncio.Event) -> None:
    """Sum the books regularly and at least once, on a connection that is reopened after a fault."""
    while not (is_over.is_set() and history.sums):
        with suppress(*DATABASE_ERRORS):
            connection = await asyncpg.connect(database_url, timeout=CONNECT_SECONDS_MAX)
            try:
                while not (is_over.is_set() and history.sums):
                    history.sums.append(await connection.fetchval(CONSERVATION, timeout=CONNECT_SECONDS_MAX))
                    await _pause(is_over)
            finally:
                connection.terminate()
        await _pause(is_over)


async def _pause(is_over: asyncio.Event) -> None:
    if is_over.is_set():
        await pause(SAMPLE_SECONDS)
    with suppress(TimeoutError):
        await asyncio.wait_for(is_over.wait(), SAMPLE_SECONDS)
