"""The integrity monitor: checks the books continuously, as a task of the worker that has the lease.

Phases: wait for the lease → check new batches every INCREMENTAL_SECONDS on one connection, and everything in slices on
another → at stop release the lease, so that another worker's monitor takes over at once.

- It does not disturb the worker: every failure (the database, a bug, another holder) is logged and retried with a
  growing pause. A slice is followed by a pause of nine times its duration, an incremental check that left a backlog by
  one of its own duration.
- A crash loses what was found since the last save, which follows each incremental check and each slice.
"""

import asyncio
from functools import partial
from typing import Final

import structlog

from wallet.integrity.monitor.checking import check, stand_by, until_done
from wallet.postgres.lease import LeaseLost, new_holder

STOP_SECONDS: Final = 4.0
"""The process does not wait longer for a database that does not respond to a clean close."""

_log = structlog.get_logger()


async def run_monitor(dsn: str, stop: asyncio.Event) -> None:
    """Check the books until `stop`. No outage ends it, and it never raises an error."""
    checking = asyncio.create_task(_check_books(dsn), name="integrity monitor")
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({checking, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        checking.cancel()
        await asyncio.wait({checking, stopping}, timeout=STOP_SECONDS)


async def _check_books(dsn: str) -> None:
    holder = new_holder()
    while True:
        lease = await until_done(partial(stand_by, dsn, holder))
        try:
            await check(dsn, lease)
        except* LeaseLost as lost:
            _log.warning("integrity_lease_lost", reason=str(lost.exceptions[0]))
