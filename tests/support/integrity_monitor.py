"""An integrity monitor that a test controls: it runs one incremental check or one slice at a time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.database import connected
from wallet.integrity.findings import Check
from wallet.integrity.monitor.checking import check_new_once, check_slice_once
from wallet.integrity.monitor.state import MonitorLease, MonitorState, StoredFault
from wallet.postgres.connections import ROWS_BY_KEY, Connection, connect
from wallet.postgres.lease import new_holder


class HandMonitor:
    """Holds the lease, and runs only the checks that the test calls."""

    def __init__(self, lease: MonitorLease, incremental: Connection, passing: Connection) -> None:
        self._tenure = lease
        self._incremental = incremental
        self._passing = passing

    @property
    def state(self) -> MonitorState:
        """Returns the monitor's state."""
        return self._tenure.state

    @property
    def faults(self) -> dict[Check, StoredFault]:
        """Returns the faults on record."""
        return {Check[name]: fault for name, fault in self.state.faults.items()}

    @property
    def is_full_check_wanted(self) -> bool:
        """Returns whether an incremental check has requested that the full check continues at once."""
        return self._tenure.full_check_wanted.is_set()

    async def check_new(self) -> None:
        """Run incremental checks until the monitor has caught up."""
        while not await check_new_once(self._incremental, self._tenure):
            pass

    async def check_new_once(self) -> bool:
        """Run one incremental check. Returns whether the monitor has caught up."""
        return await check_new_once(self._incremental, self._tenure)

    async def set_statement_timeout(self, value: str) -> None:
        """Limit how long a statement of an incremental check may take."""
        await self._incremental.execute("select set_config('statement_timeout', $1, false)", value)

    async def pass_on(self) -> float:
        """Check one slice. Returns how many seconds the monitor would pause after it."""
        return await check_slice_once(self._passing, self._tenure)

    async def pass_over(self) -> None:
        """Run a full check from its beginning, or the rest of the one in progress."""
        await self.pass_on()
        while self.state.full_progress is not None:
            await self.pass_on()

    async def check_all(self) -> None:
        """Run a full check, and then incremental checks until the monitor has caught up."""
        await self.pass_over()
        await self.check_new()


@asynccontextmanager
async def hand_monitor(database_url: str) -> AsyncIterator[HandMonitor]:
    """Yields a monitor that has taken the lease, and releases the lease at the end."""
    incremental = await connect(database_url, application_name="test monitor", settings=ROWS_BY_KEY)
    async with connected(database_url) as passing:
        try:
            lease = await MonitorLease.take(incremental, new_holder())
            assert lease is not None, "another monitor has the lease"
            yield HandMonitor(lease, incremental, passing)
            await lease.release(incremental)
        finally:
            await incremental.close()
