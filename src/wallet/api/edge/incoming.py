"""Reads what a client sends: the body, with limits, and the path, decoded once and strictly.

Bounds: a body has `body_bytes_max` (on a bulk route `bulk_body_bytes_max`) and `body_seconds_max`. For a longer body,
at most `drained_bytes_max` more are read and discarded, so that a client that sends everything before it reads still
gets its 413; then the connection is closed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from wallet.api.contract.problems import NO_EFFECT, Code, FieldError, Refused, refusal_of
from wallet.api.edge.exchange import Exchange

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]

CLOSE: Final = {"Connection": "close"}


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How many bytes and how much time a body may take."""

    body_bytes_max: int = 64 * 1024
    bulk_body_bytes_max: int = 1024 * 1024
    drained_bytes_max: int = 1024 * 1024
    body_seconds_max: float = 10.0
    bodies_bytes_max: int = 64 * 1024 * 1024
    """The limit for all requests together that the process is working on."""


class BodyBudget:
    """The bytes that all bodies together may use. A request keeps its share until it is answered.

    One client may use a quarter of them; its further bodies are read when its earlier requests are answered. Bytes are
    counted as they arrive: a client that declares a length and sends nothing uses no part of the budget.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._client_bytes_max = bytes_max // 4
        self._used = 0
        self._clients: dict[str, _ClientBodies] = {}

    async def reserve(self, exchange: Exchange, size: int) -> None:
        """Reserve more bytes for a request. Waits while its client's share is used. Raises Refused if none are free."""
        client = self._clients.get(exchange.client)
        if client is None:
            client = self._clients[exchange.client] = _ClientBodies()
        client.requests.setdefault(exchange)
        try:
            while self._used + size <= self._bytes_max and not client.has_room(exchange, size, self._client_bytes_max):
                client.is_changed.clear()
                exchange.waits_for_room = True
                await client.is_changed.wait()
            if self._used + size > self._bytes_max:
                raise _budget_used()
            exchange.waits_for_room = False
        except BaseException:
            if not exchange.reserved_bytes:
                self.release(exchange)
            raise
        self._used += size
        client.used += size
        exchange.reserved_bytes += size

    def finish(self, exchange: Exchange) -> None:
        """Record that the whole body of a request has arrived."""
        client = self._clients.get(exchange.client)
        if client is not None and exchange in client.requests:
            client.requests[exchange] = True
            client.arrived += exchange.reserved_bytes
            client.is_changed.set()

    def release(self, exchange: Exchange) -> None:
        """Release the bytes that a request has reserved."""
        client = self._clients.get(exchange.client)
        if client is None or exchange not in client.requests:
            return
        self._used -= exchange.reserved_bytes
        client.used -= exchange.reserved_bytes
        if client.requests.pop(exchange):
            client.arrived -= exchange.reserved_bytes
        exchange.reserved_bytes = 0
        client.is_changed.set()
        if not client.requests:
            del self._clients[exchange.client]


class _ClientBodies:
    """The requests of one client whose bodies use memory, oldest first, and whether each body is complete."""

    __slots__ = ("arrived", "is_changed", "requests", "used")

    def __init__(self) -> None:
        self.used = 0
        self.arrived = 0
        """The bytes among those that belong to bodies which have arrived completely."""
        self.requests: dict[Exchange, bool | None] = {}
        self.is_changed = asyncio.Event()

    def has_room(self, exchange: Exchange, size: int, bytes_max: int) -> bool:
        """Returns whether a request may reserve more. The client's oldest request that is being read does not wait for
        later ones.
        """
        if self.used + size <= bytes_max:
            return True
        oldest = next((each for each, has_arrived in self.requests.items() if not has_arrived), None)
        return exchange is oldest and self.arrived + exchange.reserved_bytes + size <= bytes_max


def _budget_used() -> Refused:
    detail = "The service is busy: the bodies of other requests use all the memory that bodies may use."
    return Refused(Code.NOT_EXECUTED, f"{detail} {NO_EFFECT} Send it again with the same key.", headers=CLOSE)


class BodyTimer:
    """Ends the reading of bodies that take too long.

    One timer of the event loop serves all requests: all have the same time limit, so the first to begin is the first to
    exceed it. asyncio.timeout would set a timer for each request, which costs 3 % of a deposit.
    """

    def __init__(self, seconds_max: float) -> None:
        self._seconds_max = seconds_max
        self._began_at: dict[asyncio.Task[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> asyncio.Task[Any]:
        """Time the current task's body: if reading takes too long, the task is cancelled. Returns the task."""
        task = asyncio.current_task()
        assert task is not None, "a request is served by a task"
        loop = asyncio.get_running_loop()
        self._began_at[task] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._seconds_max, self._cancel_late)
        return task

    def end(self, task: asyncio.Task[Any]) -> bool:
        """End the time limit of a task. Returns whether this timer, and nothing else, has cancelled it."""
        return self._began_at.pop(task, None) is None and task.uncancel() == 0

    def _cancel_late(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        for task, began_at in [*self._began_at.items()]:
            seconds_left = began_at + self._seconds_max - loop.time()
            if seconds_left > 0:
                self._timer = loop.call_later(seconds_left, self._cancel_late)
                return
            del self._began_at[task]
            task.cancel()


async def receive_body(
    exchange: Exchange,
    receive: Receive,
    limits: BodyLimits,
    *,
    budget: BodyBudget,
    timer: BodyTimer,
    is_bulk: bool = False,
) -> None:
    """Read the request's body into the exchange.

    Raises Refused: 413, 408, 503 if the budget is used up, or 400 for an incomplete body.
    """
    declared = exchange.headers.get("content-length")
    if declared == "0" or (declared is None and "transfer-encoding" not in exchange.headers):
        return
    length = None if declared is None else int(declared)
    bytes_max = limits.bulk_body_bytes_max if is_bulk else limits.body_bytes_max
    if length is not None and length > bytes_max and "expect" in exchange.headers:
        # The client waits for "100 Continue" before it sends the body, so there is nothing to drain and it is refused
        # at once.
        raise _too_large(bytes_max)
    task = timer.begin()
    try:
        await _receive_chunks(
            exchange, receive, length, budget, kept_max=bytes_max, read_max=bytes_max + limits.drained_bytes_max
        )
    except asyncio.CancelledError:
        if not timer.end(task):
            raise
        if exchange.waits_for_room:
            raise _budget_used() from None
        raise Refused(
            Code.REQUEST_TIMEOUT,
            f"The body did not arrive within {limits.body_seconds_max:g} seconds; nothing was done.",
            headers=CLOSE,
        ) from None
    except BaseException:
        timer.end(task)
        raise
    timer.end(task)
    budget.finish(exchange)
    if exchange.body_length > bytes_max:
        raise _too_large(bytes_max)


async def _receive_chunks(
    exchange: Exchange, receive: Receive, length: int | None, budget: BodyBudget, *, kept_max: int, read_max: int
) -> None:
    digest, kept = sha256(), bytearray()
    try:
        while exchange.body_length < read_max:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(
                    Code.INCOMPLETE_BODY,
                    "The body broke off or was not framed as HTTP asks; nothing was done.",
                    headers=CLOSE,
                )
            chunk: bytes = message.get("body", b"")
            digest.update(chunk)
            exchange.body_length += len(chunk)
            more = chunk[: kept_max - len(kept)]
            await budget.reserve(exchange, len(more))
            kept += more
            # Waiting for the empty last message would cost a turn of the loop for each request.
            if exchange.body_length == length or not message.get("more_body", False):
                return
    finally:
        exchange.body, exchange.body_sha256 = bytes(kept), digest.digest()


def decoded_path(raw_path: bytes) -> str:
    """Returns the path with its escapes decoded, segment by segment, so that an escaped slash never splits one.

    Raises Refused for an escaped slash or NUL, and for bytes that are not UTF-8.
    """
    segments = []
    for raw in raw_path.split(b"/"):
        try:
            segment = unquote_to_bytes(raw).decode("utf-8", "strict")
        except UnicodeDecodeError:
            raise _bad_path("contains an escape that is not UTF-8") from None
        if "/" in segment or "\x00" in segment:
            raise _bad_path("contains an escaped slash or NUL")
        segments.append(segment)
    return "/".join(segments)


def _bad_path(detail: str) -> Refused:
    return refusal_of([FieldError(Code.INVALID_REQUEST, detail, parameter="path")])


def _too_large(bytes_max: int) -> Refused:
    return Refused(Code.BODY_TOO_LARGE, f"The body is larger than {bytes_max} bytes; nothing was done.", headers=CLOSE)
