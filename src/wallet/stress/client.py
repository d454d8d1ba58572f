"""A client that retries a request with the same key until the outcome is known.

A try leaves the outcome open if there is no answer, or if the answer is 408, 429, 503 or another server error; it is
then retried with back-off. Every try, the retries of one request, and the reads have time limits. The outcome of a
request that reaches its limit stays unknown.
"""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import aiohttp
import msgspec

from wallet.stress.exchanges import NoAnswer, ServiceAnswer, Timing, TriedRequest
from wallet.stress.operations import PlannedRequest

CONNECT_SECONDS_MAX: Final = 5.0
TRY_SECONDS_MAX: Final = 15.0
"""Longer than the deadline that a service may set itself, so that its 503 arrives."""
SERVER_ERROR_TRIES_MAX: Final = 3
"""After this many server errors the last one counts as the answer; more retries would only take time."""
RETRY_SECONDS_FIRST: Final = 0.05
RETRY_SECONDS_MAX: Final = 1.0
HEADERS: Final = {"Content-Type": "application/json", "Accept": "application/json"}
NOT_FOUND: Final = 404


class Unreachable(Exception):
    """Nothing answers at the address; the message states why."""


class UnreadableWallet(Exception):
    """The service did not show a wallet as these routes do; the message states which and why."""


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """The result of a GET: the JSON, None for 404, and the URL of the next page."""

    value: Any
    next_url: str | None


class Client:
    """Sends and reads; `patience_seconds` is how long it retries one request.

    If a service has several addresses, each request and each of its tries uses the next one.
    """

    def __init__(self, session: aiohttp.ClientSession, urls: Sequence[str], *, patience_seconds: float) -> None:
        self._session = session
        self._urls = itertools.cycle(urls)
        self._patience_seconds = patience_seconds

    async def expect_reachable(self) -> None:
        """Send one request; any answer counts. Raises Unreachable."""
        attempt = await self._try("GET", "/wallet/monkey")
        if isinstance(attempt, NoAnswer):
            raise Unreachable(attempt.reason)

    async def send(self, request: PlannedRequest) -> TriedRequest:
        """Send until the outcome is known or `patience_seconds` have passed."""
        operation = request.operation
        sent_at_seconds = time.monotonic()
        tries = await self.ask("POST", operation.path, operation.body())
        return TriedRequest(request, tuple(tries), sent_at_seconds, time.monotonic())

    async def get(self, path_or_url: str) -> HistoryPage:
        """Read until there is an answer or `patience_seconds` have passed. Raises UnreadableWallet."""
        tries = await self.ask("GET", path_or_url)
        match tries[-1]:
            case NoAnswer(reason=reason):
                raise UnreadableWallet(f"GET {path_or_url}: {reason}")
            case ServiceAnswer(status=status) if status == NOT_FOUND:
                return HistoryPage(None, None)
            case ServiceAnswer(status=status, is_success=False):
                raise UnreadableWallet(f"GET {path_or_url} was answered {status}")
            case ServiceAnswer(body=body, next_url=next_url):
                try:
                    return HistoryPage(decode_json(body), next_url)
                except ValueError as error:
                    raise UnreadableWallet(f"GET {path_or_url} was answered with what is not JSON: {error}") from error

    async def ask(self, method: str, path_or_url: str, body: bytes | None = None) -> list[ServiceAnswer | NoAnswer]:
        """Retry until the outcome is known. Returns all tries; the last one is definite unless a limit was reached."""
        deadline_seconds = time.monotonic() + self._patience_seconds
        tries: list[ServiceAnswer | NoAnswer] = []
        for pause_seconds in _pauses():
            tries.append(await self._try(method, path_or_url, body))
            if _is_enough(tries) or time.monotonic() + pause_seconds >= deadline_seconds:
                break
            await asyncio.sleep(pause_seconds)
        return tries

    async def _try(self, method: str, path_or_url: str, body: bytes | None = None) -> ServiceAnswer | NoAnswer:
        base = "" if "://" in path_or_url else next(self._urls)
        url, sent_at_seconds = base + path_or_url, time.monotonic()

        def timing() -> Timing:
            return Timing(base, sent_at_seconds, time.monotonic())

        try:
            async with self._session.request(method, url, data=body, allow_redirects=False) as response:
                link = response.links.get("next")
                return ServiceAnswer(
                    response.status,
                    await response.read(),
                    None if link is None else str(link["url"]),
                    is_replayed="Idempotency-Replayed" in response.headers,
                    timing=timing(),
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return NoAnswer(_reason(error), timing())


@asynccontextmanager
async def open_client(
    *urls: str, concurrency: int, patience_seconds: float, api_key: str | None = None
) -> AsyncIterator[Client]:
    """Yields a client of one service, with a kept connection for each concurrent request."""
    authorization = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrency),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=HEADERS | authorization,
        timeout=aiohttp.ClientTimeout(total=TRY_SECONDS_MAX, sock_connect=CONNECT_SECONDS_MAX),
    ) as session:
        yield Client(session, [url.rstrip("/") for url in urls], patience_seconds=patience_seconds)


def decode_json(body: bytes) -> Any:
    """Returns the JSON's value, its numbers with a point or an exponent as Decimal. Raises ValueError."""
    return _decode(body)


def _pauses() -> Iterator[float]:
    """Yields growing pauses, each drawn from half to all of its length, so that many clients do not retry at once."""
    seconds = RETRY_SECONDS_FIRST
    while True:
        yield seconds * random.uniform(0.5, 1)
        seconds = min(seconds * 2, RETRY_SECONDS_MAX)


def _is_enough(tries: list[ServiceAnswer | NoAnswer]) -> bool:
    last = tries[-1]
    server_errors = [attempt for attempt in tries if isinstance(attempt, ServiceAnswer) and attempt.is_server_error]
    return (isinstance(last, ServiceAnswer) and last.is_definite) or len(server_errors) >= SERVER_ERROR_TRIES_MAX


def _reason(error: Exception) -> str:
    """Returns why there was no answer, in words for a person."""
    match error:
        case TimeoutError():
            return "no answer in time"
        case aiohttp.ServerDisconnectedError():
            return "connection closed without an answer"
        case aiohttp.InvalidURL():
            return "not an address"
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
            return "connection refused"
        case aiohttp.ClientConnectorError(strerror=str(words)):
            return words
        case aiohttp.ClientPayloadError():
            return "answer cut off"
        case aiohttp.ClientConnectionError() | OSError():
            return "connection lost"
        case _:
            return str(error) or type(error).__name__


_decode: Final = msgspec.json.Decoder(float_hook=Decimal).decode
