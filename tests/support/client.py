"""A client like those of the users: it retries with the same key until it knows the outcome."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Any

import aiohttp

from tests.support.waiting import eventually

TRY_SECONDS_MAX = 15.0
OUTCOME_SECONDS_MAX = 60.0


@dataclass(frozen=True)
class Reply:
    """One complete answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Returns the decoded JSON of the body."""
        return json.loads(self.body)


@dataclass
class Client:
    """Sends to its addresses in turn until one gives an outcome; counts the statuses and errors on the way."""

    session: aiohttp.ClientSession
    urls: Sequence[str]
    seen: Counter[int | str] = field(default_factory=Counter)

    async def get(self, path: str) -> Any:
        """Send a GET that must succeed. Returns its JSON."""
        async with self.session.get(self.urls[0] + path) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def more_answers(self, count: int) -> None:
        """Wait until this many more answers have arrived, while other tasks send through this client."""
        wanted = self.seen.total() + count
        await eventually(lambda: self.seen.total() >= wanted, within=OUTCOME_SECONDS_MAX)

    async def post_once(self, path: str, body: dict[str, Any], *, url: str) -> Reply:
        """Send one POST, once. Raises aiohttp.ClientError or TimeoutError."""
        async with self.session.post(url + path, json=body) as response:
            return Reply(response.status, response.headers, await response.read())

    async def post(self, path: str, body: dict[str, Any], *, first_url: int = 0) -> Reply:
        """Send one POST, and repeat it with its key as long as the answer is lost or is a 503."""
        attempt = 0

        async def outcome() -> Reply | None:
            nonlocal attempt
            url = self.urls[(first_url + attempt) % len(self.urls)]
            attempt += 1
            try:
                reply = await self.post_once(path, body, url=url)
            except (aiohttp.ClientError, TimeoutError) as error:
                self.seen[type(error).__name__] += 1
                return None
            self.seen[reply.status] += 1
            return None if reply.status == 503 else reply

        return await eventually(outcome, within=OUTCOME_SECONDS_MAX)


@asynccontextmanager
async def open_client(*urls: str) -> AsyncIterator[Client]:
    """Open a client for up to 200 requests at once, which has no retries except its own."""
    connector = aiohttp.TCPConnector(limit=200)
    timeout = aiohttp.ClientTimeout(total=TRY_SECONDS_MAX)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Client(session, urls)


def random_operation(draw: random.Random, number: int, *, wallet_count: int) -> tuple[str, dict[str, Any]]:
    """Returns a route and a body: a deposit, a withdrawal or a transfer. Some of them must be refused."""
    one, two = draw.sample(range(wallet_count), 2)
    body: dict[str, Any] = {
        "amount": f"{draw.randint(1, 5000)}.{draw.randint(0, 9999):04d}",
        "requestId": f"op-{number}",
    }
    kind = draw.choice(["deposit", "deposit", "withdraw", "transfer"])
    if kind == "transfer":
        body["toWalletId"] = f"wallet-{two}"
    return f"/wallet/wallet-{one}/{kind}", body


def random_operations(seed: int, *, wallet_count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields operations without end, drawn from the seed; about every tenth repeats an earlier one."""
    draw = random.Random(seed)
    sent: list[tuple[str, dict[str, Any]]] = []
    while True:
        if sent and draw.random() < 0.1:
            yield draw.choice(sent)
        else:
            sent.append(random_operation(draw, len(sent), wallet_count=wallet_count))
            yield sent[-1]


async def send_random_operations(
    client: Client, *, seed: int, count: int, concurrency: int, wallet_count: int = 20
) -> Counter[int]:
    """Send this many random operations. Returns the final statuses."""
    return await _send(client, islice(random_operations(seed, wallet_count=wallet_count), count), concurrency)


@asynccontextmanager
async def random_load(
    client: Client, *, seed: int, concurrency: int = 50, wallet_count: int = 20
) -> AsyncIterator[Counter[int]]:
    """Send random operations as long as the block runs; afterwards the counter has the final statuses."""
    is_on = True
    statuses: Counter[int] = Counter()
    operations = takewhile(lambda _: is_on, random_operations(seed, wallet_count=wallet_count))
    sending = asyncio.create_task(_send(client, operations, concurrency))
    try:
        yield statuses
    finally:
        is_on = False
        statuses.update(await sending)


async def _send(client: Client, operations: Iterator[tuple[str, dict[str, Any]]], concurrency: int) -> Counter[int]:
    numbered = enumerate(operations)
    statuses: Counter[int] = Counter()

    async def send_some() -> None:
        for number, (path, body) in numbered:
            reply = await client.post(path, body, first_url=number)
            statuses[reply.status] += 1

    await asyncio.gather(*(send_some() for _ in range(concurrency)))
    return statuses
