"""A client like those of the users: it retries with the same key until it receives the outcome.

For a test without an event loop there are functions that send a single request.
"""

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
import httpx

from tests.support.waiting import eventually, eventually_blocking

TRY_SECONDS_MAX = 15.0
OUTCOME_SECONDS_MAX = 60.0
COUNTED_SECONDS_MAX = 30.0


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
    """Sends to its addresses in turn until one returns an outcome; counts the statuses and errors on the way."""

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

    async def deposit(self, wallet_id: str, amount: int, key: str) -> Reply:
        """Send a deposit as `post` does. Returns the reply, which must be a 201."""
        reply = await self.post(f"/wallet/{wallet_id}/deposit", {"amount": amount, "requestId": key})
        assert reply.status == 201, reply.body
        return reply


@asynccontextmanager
async def open_client(*urls: str) -> AsyncIterator[Client]:
    """Open a client for up to 200 requests at once, which has no retries except its own."""
    connector = aiohttp.TCPConnector(limit=200)
    timeout = aiohttp.ClientTimeout(total=TRY_SECONDS_MAX)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Client(session, urls)


CREATE_KEY = ("key", "create", "--name", "test", "--scope", "read", "--scope", "deposit")


def deposit_once(
    url: str, *, key: str | None = None, api_key: str | None = None, timeout: float = 5.0
) -> httpx.Response:
    """Send a deposit of 5 to alice, once. Returns the answer, which must be a 201."""
    body = {"amount": 5} | ({} if key is None else {"requestId": key})
    headers = _authorization(api_key)
    answer = httpx.post(f"{url}/wallet/alice/deposit", json=body, headers=headers, trust_env=False, timeout=timeout)
    assert answer.status_code == 201, answer.text
    return answer


def total_deposited(url: str, api_key: str | None = None) -> str:
    """Returns what the statistics have as the total of alice's deposits."""
    answer = httpx.get(f"{url}/wallet/alice/stats", headers=_authorization(api_key), trust_env=False)
    return str(answer.json()["totalDeposited"])


def assert_a_deposit_is_counted(url: str, api_key: str | None = None) -> None:
    """Send the first deposit to alice, and wait until the statistics have it."""
    deposit_once(url, api_key=api_key)
    eventually_blocking(lambda: total_deposited(url, api_key) == "5.0000", within=COUNTED_SECONDS_MAX)


def _authorization(api_key: str | None) -> dict[str, str]:
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}


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
