"""The lease of the integrity monitor, and the state that its holder may write.

`lease_until` is when another monitor may take over. It may also do so if that time is further in the future than a
lease can last, because the clock was put back. The token increases each time the lease is taken, and every save
compares it: a monitor that was suspended past its lease finds another token, and writes nothing.
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
"""Four incremental checks: a slow one does not lose it, and after a crash another monitor checks within 30 s."""

SQL: Final = load_statements("wallet.integrity.monitor", "monitor.sql")

_log = structlog.get_logger()


class LeaseLost(Exception):
    """Another integrity monitor has taken over; nothing was written."""


def new_holder() -> str:
    """Returns a name that no other monitor has, and from which a person can find the process."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class MonitorLease:
    """The right to write the monitor's row, and the state in it."""

    def __init__(self, token: int, state: State) -> None:
        self.token = token
        self.state = state
        self.full_check_wanted = asyncio.Event()
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
            # The next full check checks everything, so only what was remembered is lost.
            _log.error("integrity_state_unreadable", error=str(error))
            state = State()
        _log.info("integrity_lease_taken", holder=holder, token=row["token"])
        return cls(row["token"], state)

    async def save(self, connection: Connection) -> None:
        """Write the state and renew the lease. Raises LeaseLost."""
        # One at a time, so that no older state comes after a newer one.
        async with self._saving:
            saved = await connection.fetchval(SQL.save_state, self.token, encode_state(self.state), LEASE)
        if saved is None:
            raise LeaseLost(f"Another integrity monitor has taken over from token {self.token}.")

    async def release(self, connection: Connection) -> None:
        """Let another monitor take over now. Harmless if it already has."""
        await connection.execute(SQL.give_up_lease, self.token)
        _log.info("integrity_lease_released", token=self.token)
