"""Takes in what a client sends: the body, with limits, and the path, decoded once and strictly.

Bounds: a body has `body_bytes_max` (on a bulk route `bulk_body_bytes_max`) and `body_seconds_max`. Of a longer one
at most `drained_bytes_max` more are read and thrown away, so that a client that sends before it listens still gets
its 413; then the connection is closed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from wallet.api.contract.problems import Code, FieldError, Refused, refusal_of
from wallet.api.edge.exchange import Exchange

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]

ATTEMPT_HAD_NO_EFFECT: Final = "This attempt had no effect. Send the request again with the same key."
CLOSE: Final = {"Connection": "close"}


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How many bytes and how much time a body may take."""

    body_bytes_max: int = 64 * 1024
    bulk_body_bytes_max: int = 1024 * 1024
    drained_bytes_max: int = 1024 * 1024
    body_seconds_max: float = 10.0
    bodies_bytes_max: int = 64 * 1024 * 1024
    """Of all requests that the process is working on together."""


class BodyBudget:
    """The bytes that bodies may use together. A request keeps its share until it is answered.

    One client may use a quarter of them. Bytes are counted as they arrive: a client that declares a length and sends
    nothing takes no room from the others.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._client_bytes_max = bytes_max // 4
        self._used = 0
        self._used_by_client: dict[str, int] = {}

    def expect(self, exchange: Exchange, size: int) -> None:
        """Refuse a request whose bytes would not be free now; reserves nothing. Raises Refused."""
        if self._used_by_client.get(exchange.client_ip, 0) + size > self._client_bytes_max:
            raise _budget_used("the bodies of your other requests use all the memory that one client's may use")
        if self._used + size > self._bytes_max:
            raise _budget_used("the bodies of other requests use all the memory that bodies may use")

    def reserve(self, exchange: Exchange, size: int) -> None:
        """Reserve more bytes for a request. Raises Refused where they are not free."""
        used_by_client = self._used_by_client.get(exchange.client_ip, 0) + size
        if used_by_client > self._client_bytes_max or self._used + size > self._bytes_max:
            self.expect(exchange, size)
        self._used += size
        self._used_by_client[exchange.client_ip] = used_by_client
        exchange.reserved_bytes += size

    def release(self, exchange: Exchange) -> None:
        """Give back what a request has reserved."""
        if not exchange.reserved_bytes:
            return
        self._used -= exchange.reserved_bytes
        self._used_by_client[exchange.client_ip] -= exchange.reserved_bytes
        if not self._used_by_client[exchange.client_ip]:
            del self._used_by_client[exchange.client_ip]
        exchange.reserved_bytes = 0


def _budget_used(reason: str) -> Refused:
    return Refused(Code.NOT_EXECUTED, f"The service is busy: {reason}. {ATTEMPT_HAD_NO_EFFECT}", headers=CLOSE)


class BodyTimer:
    """Ends the reading of bodies that take too long.

    One timer of the event loop serves all requests, as all may take equally long: the first to begin is the first to
    be late. asyncio.timeout would set a timer for each, which costs 3 % of a deposit.
    """

    def __init__(self, seconds_max: float) -> None:
        self._seconds_max = seconds_max
        self._began_at: dict[asyncio.Task[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> asyncio.Task[Any]:
        """The current task begins to read a body; if that takes too long, it is cancelled. Returns the task."""
        task = asyncio.current_task()
        assert task is not None, "a request is served by a task"
        loop = asyncio.get_running_loop()
        self._began_at[task] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._seconds_max, self._cancel_late)
        return task

    def end(self, task: asyncio.Task[Any]) -> bool:
        """The task has stopped reading. Returns whether this timer, and nothing else, has cancelled it."""
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

    Raises Refused: 413, 408, 503 where the budget is used up, or 400 for a body that breaks off.
    """
    declared = exchange.headers.get("content-length")
    if declared == "0" or (declared is None and "transfer-encoding" not in exchange.headers):
        return
    length = None if declared is None else int(declared)
    bytes_max = limits.bulk_body_bytes_max if is_bulk else limits.body_bytes_max
    if length is not None and length > bytes_max and "expect" in exchange.headers:
        # The client waits for a word before it sends: nothing to drain, and the word is no.
        raise _too_large(bytes_max)
    if length is not None:
        budget.expect(exchange, min(length, bytes_max))
    task = timer.begin()
    try:
        await _receive_chunks(
            exchange, receive, length, budget, kept_max=bytes_max, read_max=bytes_max + limits.drained_bytes_max
        )
    except asyncio.CancelledError:
        if not timer.end(task):
            raise
        raise Refused(
            Code.REQUEST_TIMEOUT,
            f"The body did not arrive within {limits.body_seconds_max:g} seconds; nothing was done.",
            headers=CLOSE,
        ) from None
    except BaseException:
        timer.end(task)
        raise
    timer.end(task)
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
            budget.reserve(exchange, len(more))
            kept += more
            # Asking for the empty last message would cost a turn of the loop for each request.
            if exchange.body_length == length or not message.get("more_body", False):
                return
    finally:
        exchange.body, exchange.body_sha256 = bytes(kept), digest.digest()


def decoded_path(raw_path: bytes) -> str:
    """The path with its escapes undone, segment by segment, so that an escaped slash never splits one.

    Raises Refused for an escaped slash or NUL, and for bytes that are not UTF-8.
    """
    segments = []
    for raw in raw_path.split(b"/"):
        try:
            segment = unquote_to_bytes(raw).decode("utf-8", "strict")
        except UnicodeDecodeError:
            raise _bad_path("holds an escape that is not UTF-8") from None
        if "/" in segment or "\x00" in segment:
            raise _bad_path("holds an escaped slash or NUL")
        segments.append(segment)
    return "/".join(segments)


def _bad_path(detail: str) -> Refused:
    return refusal_of([FieldError(Code.INVALID_REQUEST, detail, parameter="path")])


def _too_large(bytes_max: int) -> Refused:
    return Refused(Code.BODY_TOO_LARGE, f"The body is larger than {bytes_max} bytes; nothing was done.", headers=CLOSE)
