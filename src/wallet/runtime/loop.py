"""Waits between the rounds of a loop: they double while there is nothing to do, up to a limit."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

_JITTER: Final = 0.2


class Pace:
    """One loop's waits, each jittered by up to a fifth so that several processes fall out of step.

    `wake` ends the wait in progress, or the next one: a loop looks at its stop right after it.
    """

    def __init__(self, *, seconds_min: float, seconds_max: float) -> None:
        self._seconds_min = seconds_min
        self._seconds_max = seconds_max
        self._seconds = seconds_min
        self._woken = asyncio.Event()

    def reset(self) -> None:
        """There was work, or success: the next wait is the shortest again."""
        self._seconds = self._seconds_min

    def wake(self) -> None:
        """End the wait."""
        self._woken.set()

    async def wait(self) -> None:
        """Wait, and make the next wait twice as long."""
        seconds = self._seconds * (1 - _JITTER * random.random())
        self._seconds = min(self._seconds * 2, self._seconds_max)
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()


class Sleeper(Protocol):
    """Something whose wait can be ended."""

    def wake(self) -> None:
        """End the wait."""


@asynccontextmanager
async def woken_at(stop: asyncio.Event, *sleepers: Sleeper) -> AsyncIterator[None]:
    """While inside, a stop wakes the sleepers."""

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
