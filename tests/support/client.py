"""A client as the users write it: it retries with the same key until it knows the outcome."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.waiting import eventually

TRY_SECONDS_MAX = 15.0
OUTCOME_SECONDS_MAX = 60.0


@dataclass
class Client:
    """Sends to the first of its addresses that takes the request; counts what it saw on the way."""

    http: httpx.AsyncClient
    urls: Sequence[str]
    seen: Counter[int | str] = field(default_factory=Counter)

    async def get(self, path: str) -> Any:
        """The JSON of a GET that must succeed."""
        response = await self.http.get(self.urls[0] + path)
        assert response.status_code == 200, response.text
        return response.json()

    async def more_answers(self, count: int) -> None:
        """Wait until so many more answers have come, while others send through this client."""
        wanted = self.seen.total() + count
        await eventually(lambda: self.seen.total() >= wanted, within=OUTCOME_SECONDS_MAX)

    async def post(self, path: str, body: dict[str, Any], *, first_url: int = 0) -> httpx.Response:
        """One POST, again with its key while the service says that it does not know or cannot."""
        attempt = 0

        async def outcome() -> httpx.Response | None:
            nonlocal attempt
            url = self.urls[(first_url + attempt) % len(self.urls)]
            attempt += 1
            try:
                response = await self.http.post(url + path, json=body)
            except httpx.TransportError as error:
                self.seen[type(error).__name__] += 1
                return None
            self.seen[response.status_code] += 1
            return None if response.status_code == 503 else response

        return await eventually(outcome, within=OUTCOME_SECONDS_MAX)


@asynccontextmanager
async def open_client(*urls: str) -> AsyncIterator[Client]:
    """A client with room for a few hundred requests at once, and no retries but its own."""
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    async with httpx.AsyncClient(limits=limits, timeout=TRY_SECONDS_MAX, trust_env=False) as http:
        yield Client(http, urls)


def random_operation(draw: random.Random, number: int, *, wallet_count: int) -> tuple[str, dict[str, Any]]:
    """A route and a body: deposits, withdrawals and transfers, some of which must be refused."""
    one, two = draw.sample(range(wallet_count), 2)
    body: dict[str, Any] = {
        "amount": f"{draw.randint(1, 5000)}.{draw.randint(0, 9999):04d}",
        "requestId": f"op-{number}",
    }
    kind = draw.choice(["deposit", "deposit", "withdraw", "transfer"])
    if kind == "transfer":
        body["toWalletId"] = f"wallet-{two}"
    return f"/wallet/wallet-{one}/{kind}", body


async def send_random_operations(
    client: Client, *, seed: int, count: int, concurrency: int, wallet_count: int = 20
) -> Counter[int]:
    """Send `count` operations drawn from the seed, every tenth of them twice; returns the final statuses."""
    draw = random.Random(seed)
    operations = [random_operation(draw, number, wallet_count=wallet_count) for number in range(count)]
    operations += draw.sample(operations, count // 10)
    waiting = iter(enumerate(operations))
    statuses: Counter[int] = Counter()

    async def send_some() -> None:
        for number, (path, body) in waiting:
            response = await client.post(path, body, first_url=number)
            statuses[response.status_code] += 1

    await asyncio.gather(*(send_some() for _ in range(concurrency)))
    return statuses
