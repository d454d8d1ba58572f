"""Waiting that ends when the process is asked to stop."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


async def unless_stopped(awaitable: Awaitable[Result], stop: asyncio.Event) -> Result | None:
    """The result, or None if asked to stop before it is there; then the wait for it is cancelled."""
    waiting = asyncio.ensure_future(awaitable)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        stopping.cancel()
        waiting.cancel()
        await asyncio.wait({waiting, stopping})
