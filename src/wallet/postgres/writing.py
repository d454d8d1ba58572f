"""Sends the statements of the write phase one after the other: PostgreSQL runs one while the next one is built.

For a big batch, Python and PostgreSQL need about the same time, so running them in turn would leave each idle for half
of it. The result of a statement is checked when the next one is sent, or at the end, always before the COMMIT.
"""

import asyncio
from types import TracebackType
from typing import Final, Self

import asyncpg

from wallet.postgres.connections import Connection

KEYS: Final = "operations_pkey"
"""If there is no wallet row to lock, only this constraint decides which batch was first with a key."""


class WriteConflict(Exception):
    """Someone else stored one of the batch's keys or changed one of its wallets first: run the batch again."""


class Writing:
    """A connection in the write phase of one batch, with at most one statement in flight.

    `overlaps` is for big batches only: handing a statement over takes turns of the event loop, and these are long when
    the loop is busy.
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
        # The transaction will be rolled back. Wait, so that no statement is running on the connection then.
        await asyncio.wait([in_flight])
        if not in_flight.cancelled():
            in_flight.exception()

    async def execute(self, query: str, *arguments: object, row_count: int | None = None) -> None:
        """Wait for the previous statement, send this one, and return while PostgreSQL runs it.

        Without overlap, return when this one is done. Raises the error of the statement that was waited for, or
        WriteConflict if that one did not change `row_count` rows.
        """
        if not self._overlaps:
            await self._run(query, arguments, row_count)
            return
        if self._in_flight is not None:
            in_flight, self._in_flight = self._in_flight, None
            await in_flight
        self._in_flight = asyncio.create_task(self._run(query, arguments, row_count))
        # The event loop needs one turn to encode the statement, and one more for the transport to write it.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _run(self, query: str, arguments: tuple[object, ...], row_count: int | None) -> None:
        try:
            # The result is a command tag, such as `UPDATE 3`.
            tag = await self._connection.execute(query, *arguments)
        except asyncpg.UniqueViolationError as error:
            if (error.constraint_name or "").startswith(KEYS):
                raise WriteConflict from error
            raise
        if row_count is not None and int(tag.rsplit(" ", 1)[1]) != row_count:
            raise WriteConflict
