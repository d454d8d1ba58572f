"""A result that is computed at most once in a while, however many ask for it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Shared(Generic[Result]):
    """Computes a result when it is asked for and the last one is too old; who asks meanwhile shares the computation."""

    def __init__(self, compute: Callable[[], Awaitable[Result]], *, seconds: float) -> None:
        self._compute = compute
        self._seconds = seconds
        self._computing: asyncio.Task[Result] | None = None
        self._computed_at = float("-inf")

    async def get(self) -> Result:
        """The result, at most `seconds` old. Raises what the computation raises."""
        computing = self._computing
        now = asyncio.get_running_loop().time()
        if computing is None or (computing.done() and now - self._computed_at >= self._seconds):
            computing = self._computing = asyncio.create_task(self._run())
        # One who stops waiting does not cancel it for the others.
        return await asyncio.shield(computing)

    async def _run(self) -> Result:
        try:
            return await self._compute()
        finally:
            self._computed_at = asyncio.get_running_loop().time()
