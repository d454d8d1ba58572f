"""Leases: they decide which process does work that only one process may do at a time.

A lease is stored in a table with one row: `holder`, `token` and `lease_until`. Two of these columns protect it:

- `lease_until` decides only when another process may take the lease. It may also do so if that time is further away
  than a lease can last, because then the clock was set back. The times are PostgreSQL's, from the start of a statement,
  so a lease can be shorter than its length, but never longer.
- `token` decides which process may write. It grows each time the lease is taken, and every transaction of the holder
  compares it. So a process that was suspended until after its lease ended either finds another token and writes
  nothing, or finds its own token and is still the holder.
"""

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from asyncpg import Record

from wallet.postgres.connections import Connection
from wallet.postgres.statements import load_statements
from wallet.runtime.started import Standby

_SQL: Final = load_statements("wallet.postgres", "lease.sql")


class LeaseLost(Exception):
    """Another process has taken the lease; nothing was written."""


def new_holder() -> str:
    """Returns a unique name of this process, with its host and process id, so that an operator can find it."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class LeaseTable:
    """A table that stores a lease, and the length of the lease."""

    name: Literal["journal_head", "worker_checkpoint", "auditor"]
    length: timedelta

    async def take(self, connection: Connection, holder: str, standby: Standby | None = None) -> "Lease | None":
        """Take the lease if it is free; otherwise report its holder to `standby`. One or two round trips.

        A holder may take its own lease again at once, for example after an outage.
        """
        row = await connection.fetchrow(self._statement(_SQL.take), holder, self.length)
        if row is not None:
            if standby is not None:
                standby.reset()
            return Lease(self, holder, row["token"], row)
        held = await connection.fetchrow(self._statement(_SQL.read))
        if standby is not None and held is not None:
            standby.report(held["holder"], held["lease_until"])
        return None

    async def renew(self, connection: Connection, token: int) -> bool:
        """Extend the lease to its full length from now. Returns whether the table still has this token."""
        return await connection.execute(self._statement(_SQL.renew), token, self.length) == "UPDATE 1"

    async def release(self, connection: Connection, token: int) -> None:
        """Let another process take the lease at once. Does nothing if one has already taken it."""
        await connection.execute(self._statement(_SQL.release), token)

    def _statement(self, text: str) -> str:
        return text.replace("lease_table", self.name)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write, for as long as the table has this token."""

    table: LeaseTable
    holder: str
    token: int
    row: Record
    """The table's row as it was when the lease was taken."""

    async def renew(self, connection: Connection) -> None:
        """Extend the lease to its full length from now. Raises LeaseLost."""
        if not await self.table.renew(connection, self.token):
            raise self.lost()

    async def release(self, connection: Connection) -> None:
        """Let another process take the lease at once. Does nothing if one has already taken it."""
        await self.table.release(connection, self.token)

    def lost(self) -> LeaseLost:
        """Returns the error for a token that is no longer in the table."""
        return LeaseLost(f"Another process has taken {self.table.name} over from token {self.token}.")
