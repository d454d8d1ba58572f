"""The write phase's statements, one behind the other: PostgreSQL works on one while the next is being built.

The Python and the PostgreSQL of a big batch cost about the same, so taking turns would waste half of both. A
statement's own result is looked at when the next one is sent, or at the end; nothing is committed before.
"""

import asyncio
from types import TracebackType
from typing import Final, Self

import asyncpg

from wallet.postgres.connections import Connection

KEYS: Final = "operations_pkey"
"""Where no wallet row exists to lock, this alone decides who was first with a key."""


class WriteConflict(Exception):
    """Someone else stored one of the batch's keys or changed one of its wallets first: run the batch again."""


class Writing:
    """A connection in the write phase of one batch, with at most one statement in flight.

    `overlaps` is for big batches: handing over takes turns of the event loop, which in a busy one are long.
    """

    def __init__(self, connection: Connection, *, overlaps: bool) -> None:
        self._connection = connection
        self._overlaps = overlaps
        self._in_flight: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is None:
            return
        if error is None:
            await in_flight
            return
        # The transaction is lost; what matters is that its connection is free to be rolled back.
        await asyncio.wait([in_flight])
        if not in_flight.cancelled():
            in_flight.exception()

    async def execute(self, query: str, *arguments: object, row_count: int | None = None) -> None:
        """Wait for the statement before, hand over this one, and return while PostgreSQL works on it.

        Without overlap, return when it is done. Raises what the statement before raised, and WriteConflict if that did
        not change as many rows as was said.
        """
        if not self._overlaps:
            await self._run(query, arguments, row_count)
            return
        if self._in_flight is not None:
            in_flight, self._in_flight = self._in_flight, None
            await in_flight
        self._in_flight = asyncio.create_task(self._run(query, arguments, row_count))
        # One turn of the loop to encode it, one more for the transport to write it.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _run(self, query: str, arguments: tuple[object, ...], row_count: int | None) -> None:
        try:
            # A command tag, such as `UPDATE 3`.
            tag = await self._connection.execute(query, *arguments)
        except asyncpg.UniqueViolationError as error:
            if (error.constraint_name or "").startswith(KEYS):
                raise WriteConflict from error
            raise
        if row_count is not None and int(tag.rsplit(" ", 1)[1]) != row_count:
            raise WriteConflict
