"""Waiting for a condition with a limit: the only place in the tests that sleeps.

A condition is met when it returns a true value, which the wait then returns. A condition that raises
AssertionError is not met yet, so it may be a block of asserts that returns True; its last error is shown
when the limit is reached.
"""

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

Met = TypeVar("Met")

WITHIN_SECONDS = 10.0
EVERY_SECONDS = 0.02


@overload
async def eventually(
    condition: Callable[[], Coroutine[Any, Any, Met | None]], *, within: float = ..., every: float = ...
) -> Met: ...


@overload
async def eventually(condition: Callable[[], Met | None], *, within: float = ..., every: float = ...) -> Met: ...


async def eventually(
    condition: Callable[[], Any], *, within: float = WITHIN_SECONDS, every: float = EVERY_SECONDS
) -> Any:
    """Waits until the condition (a function, async or not) is met, and returns what it returned."""
    limit = _Limit(condition, within)
    while True:
        try:
            found = condition()
            met = await found if inspect.isawaitable(found) else found
        except AssertionError as error:
            limit.last_error = error
        else:
            if met:
                return met
            limit.last_error = None
        limit.check()
        await asyncio.sleep(every)


async def pause(seconds: float) -> None:
    """Sleeps for the duration of a fault, or between two requests of a load. Never use it to wait for a result."""
    await asyncio.sleep(seconds)


def eventually_blocking(
    condition: Callable[[], Met | None], *, within: float = WITHIN_SECONDS, every: float = EVERY_SECONDS
) -> Met:
    """Waits like `eventually`, for a test or fixture without an event loop."""
    limit = _Limit(condition, within)
    while True:
        try:
            met = condition()
        except AssertionError as error:
            limit.last_error = error
        else:
            if met:
                return met
            limit.last_error = None
        limit.check()
        time.sleep(every)


class _Limit:
    def __init__(self, condition: Callable[[], object], within: float) -> None:
        self._name = getattr(condition, "__qualname__", repr(condition))
        self._within = within
        self._deadline = time.monotonic() + within
        self.last_error: AssertionError | None = None

    def check(self) -> None:
        if time.monotonic() >= self._deadline:
            reason = f": {self.last_error}" if self.last_error is not None else ""
            raise AssertionError(f"not met within {self._within:g} s: {self._name}{reason}") from self.last_error
