"""Helpers for the loops of all processes: growing waits, waits that end when the process is asked to stop, and shared
results that are computed at most once per interval.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Generic, Protocol, TypeVar

Result = TypeVar("Result")

TIMER_SLACK_SECONDS: Final = 0.005
"""Added to timers, because the event loop counts in milliseconds and may call a timer slightly too early."""

_JITTER: Final = 0.2


class Backoff:
    """The waits of one loop. Each wait is twice as long as the previous one, up to a limit.

    Each is jittered by up to a fifth, so that several processes do not run in step. `wake` ends the current wait, or
    else the next one. A loop must check its stop event right after a wait.
    """

    def __init__(self, *, seconds_min: float, seconds_max: float) -> None:
        self._seconds_min = seconds_min
        self._seconds_max = seconds_max
        self._seconds = seconds_min
        self._woken = asyncio.Event()

    def reset(self) -> None:
        """Make the next wait the shortest again. Call it after work was found, or after a success."""
        self._seconds = self._seconds_min

    def wake(self) -> None:
        """End the wait."""
        self._woken.set()

    async def wait(self) -> None:
        """Wait, and make the next wait twice as long."""
        seconds = self._seconds * (1 - _JITTER * random.random())
        self._seconds = min(self._seconds * 2, self._seconds_max)
        if await is_set_within(self._woken, seconds):
            self._woken.clear()


class Sleeper(Protocol):
    """Something whose wait can be ended."""

    def wake(self) -> None:
        """End the wait."""


@asynccontextmanager
async def woken_at(stop: asyncio.Event, *sleepers: Sleeper) -> AsyncIterator[None]:
    """Inside this context, a stop wakes the sleepers."""

    async def wake_all() -> None:
        await stop.wait()
        for sleeper in sleepers:
            sleeper.wake()

    watching = asyncio.create_task(wake_all())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait({watching})


async def unless_stopped(awaitable: Awaitable[Result], stop: asyncio.Event) -> Result | None:
    """Returns the result, or None if `stop` is set first; then the awaitable is cancelled."""
    waiting = asyncio.ensure_future(awaitable)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        stopping.cancel()
        waiting.cancel()
        await asyncio.wait({waiting, stopping})


async def retried(
    run: Callable[[], Awaitable[Result]],
    *,
    attempts_max: int,
    errors: tuple[type[Exception], ...],
    passes: Callable[[Exception], bool] = lambda error: True,
    pause_seconds_max: float = 0.0,
) -> Result:
    """Call `run` and return its result. After a temporary error, wait for a random time and call it again.

    An error is temporary if it is one of `errors` and `passes` returns True for it. Raises any other error at once, and
    the error of the last attempt.
    """
    attempts_left = attempts_max
    while True:
        attempts_left -= 1
        try:
            return await run()
        except errors as error:
            if not attempts_left or not passes(error):
                raise
        await asyncio.sleep(random.uniform(0, pause_seconds_max))


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event for at most this many seconds. Returns whether it was set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Shared(Generic[Result]):
    """Computes a result on demand if the last one is too old. Concurrent callers share one computation."""

    def __init__(self, compute: Callable[[], Awaitable[Result]], *, seconds: float) -> None:
        self._compute = compute
        self._seconds = seconds
        self._computing: asyncio.Task[Result] | None = None
        self._computed_at = float("-inf")

    async def get(self) -> Result:
        """Returns the result, which is at most `seconds` old. Raises the errors of the computation."""
        computing = self._computing
        now = asyncio.get_running_loop().time()
        if computing is None or (computing.done() and now - self._computed_at >= self._seconds):
            computing = self._computing = asyncio.create_task(self._run())
        # A caller that is cancelled must not cancel the computation for the others.
        return await asyncio.shield(computing)

    async def _run(self) -> Result:
        try:
            return await self._compute()
        finally:
            self._computed_at = asyncio.get_running_loop().time()
