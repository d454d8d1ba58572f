"""An auditor under the test's control: look by look, slice by slice."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.relay import connected
from wallet.integrity.findings import Check
from wallet.integrity.monitor.checking import check_new_once, check_slice_once
from wallet.integrity.monitor.state import MonitorLease, MonitorState, StoredFault
from wallet.postgres.connections import ROWS_BY_KEY, Connection, connect
from wallet.postgres.lease import new_holder


class HandMonitor:
    """Holds the lease, and does only what it is asked to."""

    def __init__(self, lease: MonitorLease, looking: Connection, passing: Connection) -> None:
        self._tenure = lease
        self._looking = looking
        self._passing = passing

    @property
    def state(self) -> MonitorState:
        """What it knows."""
        return self._tenure.state

    @property
    def faults(self) -> dict[Check, StoredFault]:
        """What it has on record."""
        return {Check[name]: fault for name, fault in self.state.faults.items()}

    @property
    def is_full_check_wanted(self) -> bool:
        """Whether a look has asked the pass to go on at once."""
        return self._tenure.full_check_wanted.is_set()

    async def look(self) -> None:
        """Look until nothing is left to look at."""
        while not await check_new_once(self._looking, self._tenure):
            pass

    async def check_new_once(self) -> bool:
        """One look; whether nothing is left to look at."""
        return await check_new_once(self._looking, self._tenure)

    async def set_statement_timeout(self, value: str) -> None:
        """How long a statement of a look may take."""
        await self._looking.execute("select set_config('statement_timeout', $1, false)", value)

    async def pass_on(self) -> float:
        """One slice; for how many seconds it would rest from it."""
        return await check_slice_once(self._passing, self._tenure)

    async def pass_over(self) -> None:
        """A whole pass from its beginning, or what is left of one."""
        await self.pass_on()
        while self.state.passing is not None:
            await self.pass_on()

    async def settle(self) -> None:
        """A pass, and the first look after it."""
        await self.pass_over()
        await self.look()


@asynccontextmanager
async def hand_monitor(database_url: str) -> AsyncIterator[HandMonitor]:
    """An auditor that has taken the lease, and gives it up at the end."""
    looking = await connect(database_url, application_name="test auditor", settings=ROWS_BY_KEY)
    async with connected(database_url) as passing:
        try:
            lease = await MonitorLease.take(looking, new_holder())
            assert lease is not None, "another auditor holds the lease"
            yield HandMonitor(lease, looking, passing)
            await lease.release(looking)
        finally:
            await looking.close()
