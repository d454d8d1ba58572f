"""The lease of the integrity monitor, and the state that its holder may write."""

import asyncio
from datetime import timedelta
from typing import Final, Self

import structlog

from wallet.integrity.monitor.state import State, StateUnreadable, decode_state, encode_state
from wallet.postgres.connections import Connection
from wallet.postgres.lease import Lease, LeaseTable
from wallet.postgres.statements import load_statements
from wallet.runtime.standby import Standby

MONITOR: Final = LeaseTable("auditor", timedelta(seconds=20))
"""Four incremental checks: a slow one does not lose it, and after a crash another monitor checks within 30 s."""

SQL: Final = load_statements("wallet.integrity.monitor", "monitor.sql")

_log = structlog.get_logger()


class MonitorLease:
    """The right to write the monitor's row, and the state in it."""

    def __init__(self, lease: Lease, state: State) -> None:
        self._lease = lease
        self.state = state
        self.full_check_wanted = asyncio.Event()
        self._saving = asyncio.Lock()

    @classmethod
    async def take(cls, connection: Connection, holder: str, standby: Standby | None = None) -> Self | None:
        """Take the lease if it is free, or report to `standby` who has it."""
        lease = await MONITOR.take(connection, holder, standby)
        if lease is None:
            return None
        try:
            state = decode_state(lease.row["state"])
        except StateUnreadable as error:
            # The next full check checks everything, so only what was remembered is lost.
            _log.error("integrity_state_unreadable", error=str(error))
            state = State()
        _log.info("integrity_lease_taken", holder=holder, token=lease.token)
        return cls(lease, state)

    async def save(self, connection: Connection) -> None:
        """Write the state and renew the lease. Raises LeaseLost."""
        # One at a time, so that no older state comes after a newer one.
        async with self._saving:
            saved = await connection.fetchval(
                SQL.save_state, self._lease.token, encode_state(self.state), MONITOR.length
            )
        if saved is None:
            raise self._lease.lost()

    async def release(self, connection: Connection) -> None:
        """Let another monitor take over now. Harmless if it already has."""
        await self._lease.release(connection)
        _log.info("integrity_lease_released", token=self._lease.token)
