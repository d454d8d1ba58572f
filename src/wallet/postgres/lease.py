"""Leases: which process does what only one may do at a time.

A lease is kept in a table with one row: `holder`, `token` and `lease_until`. Two things guard it:

- `lease_until` only decides when another process may take over. It also may when that time is further away than a lease
  can last, because the clock was put back. The times are PostgreSQL's, of the start of a statement, so a lease can only
  be shorter than meant, never longer.
- The token decides who writes: it grows with each taking, and every transaction of the holder compares it. So a process
  that slept past its lease finds another token and writes nothing, or writes as the holder it still is.
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
    """Returns a name that no other process has, and from which a person can find the process."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class LeaseTable:
    """A table that keeps a lease, and how long a lease lasts."""

    name: Literal["journal_head", "worker_checkpoint", "auditor"]
    length: timedelta

    async def take(self, connection: Connection, holder: str, standby: Standby | None = None) -> "Lease | None":
        """Take the lease if it is free, or report to `standby` who has it. One or two round trips.

        A holder may take its own lease again at once, as after an outage.
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
        """Let the lease last for its full time from now. Returns whether it still is the one with this token."""
        return await connection.execute(self._statement(_SQL.renew), token, self.length) == "UPDATE 1"

    async def release(self, connection: Connection, token: int) -> None:
        """Let another process take over at once; harmless if it already has."""
        await connection.execute(self._statement(_SQL.release), token)

    def _statement(self, text: str) -> str:
        return text.replace("lease_table", self.name)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write, as long as the table has this token."""

    table: LeaseTable
    holder: str
    token: int
    row: Record
    """The table's row as it was when the lease was taken."""

    async def renew(self, connection: Connection) -> None:
        """Have the lease for its full time from now. Raises LeaseLost."""
        if not await self.table.renew(connection, self.token):
            raise self.lost()

    async def release(self, connection: Connection) -> None:
        """Let another process take over at once; harmless if it already has."""
        await self.table.release(connection, self.token)

    def lost(self) -> LeaseLost:
        """Returns the error for a token that is no longer the last."""
        return LeaseLost(f"Another process has taken {self.table.name} over from token {self.token}.")
