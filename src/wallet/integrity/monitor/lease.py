"""The lease: which auditor may write, and what it writes.

The time in `lease_until` only says when another may take over, which it also may when that time is further away than a
lease lasts, because the clock was put back; the token says who writes: it grows with each taking
and every save compares it. So an auditor that slept past its lease finds another token, and writes nothing.
"""

import asyncio
import os
import secrets
import socket
from datetime import timedelta
from typing import Final, Self

import structlog

from wallet.integrity.monitor.state import State, StateUnreadable, decode_state, encode_state
from wallet.postgres.connections import Connection
from wallet.postgres.statements import load_statements
from wallet.runtime.standby import Standby

LEASE: Final = timedelta(seconds=20)
"""Four looks: a slow one does not lose it, and after a crash the next auditor looks within half a minute."""

SQL: Final = load_statements("wallet.integrity.monitor", "monitor.sql")

_log = structlog.get_logger()


class LeaseLost(Exception):
    """Another auditor has taken over; nothing was written."""


def new_holder() -> str:
    """A name that no other auditor has, and that a person can find."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Tenure:
    """The right to write the auditor's row, and what stands in it."""

    def __init__(self, token: int, state: State) -> None:
        self.token = token
        self.state = state
        self.pass_wanted = asyncio.Event()
        self._saving = asyncio.Lock()

    @classmethod
    async def take(cls, connection: Connection, holder: str, standby: Standby | None = None) -> Self | None:
        """Take the lease if nobody else holds it, or report to `standby` who does.

        After an outage the holder may take it again at once.
        """
        row = await connection.fetchrow(SQL.take_lease, holder, LEASE)
        if row is None:
            held = await connection.fetchrow(SQL.read_lease)
            if standby is not None and held is not None:
                standby.report(held["holder"], held["lease_until"])
            return None
        try:
            state = decode_state(row["state"])
        except StateUnreadable as error:
            # Whatever it was, the next pass proves everything; only what was remembered is lost.
            _log.error("audit_state_unreadable", error=str(error))
            state = State()
        _log.info("audit_lease_taken", holder=holder, token=row["token"])
        return cls(row["token"], state)

    async def save(self, connection: Connection) -> None:
        """Write the state and prolong the lease; raises LeaseLost."""
        # One at a time, so that no older state comes after a newer one.
        async with self._saving:
            saved = await connection.fetchval(SQL.save_state, self.token, encode_state(self.state), LEASE)
        if saved is None:
            raise LeaseLost(f"Another auditor has taken over from token {self.token}.")

    async def give_up(self, connection: Connection) -> None:
        """Let another auditor take over now; harmless when it already has."""
        await connection.execute(SQL.give_up_lease, self.token)
        _log.info("audit_lease_given_up", token=self.token)
