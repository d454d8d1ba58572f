"""The lease of the relay, whose holder may seal and mark batches, and the head of the journal, which it protects."""

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from wallet.postgres.connections import Connection
from wallet.postgres.lease import Lease, LeaseTable, new_holder
from wallet.postgres.statements import load_statements
from wallet.relay.polling_loop import PollingLoop, Work
from wallet.runtime.loop import woken_at
from wallet.runtime.started import Standby, Started, report_started

# Long enough for a slow commit or a pause of the process, short enough to replace a killed leader soon.
JOURNAL: Final = LeaseTable("journal_head", timedelta(seconds=4))
RENEW_SECONDS: Final = 1.0

log = structlog.get_logger()

_SQL: Final = load_statements("wallet.relay", "relay.sql")


@dataclass(frozen=True, slots=True)
class Head:
    """The last sealed position and its chain value."""

    position: int
    chain: bytes


async def lock_head(connection: Connection, lease: Lease) -> Head:
    """Lock the head until the transaction ends. Call it first in a transaction. Raises LeaseLost."""
    row = await connection.fetchrow(_SQL.lock_head)
    assert row is not None, "journal_head has lost its row"
    if row["token"] != lease.token:
        raise lease.lost()
    return Head(row["position"], row["chain"])


async def wait_for_lease(dsn: str, stop: asyncio.Event) -> Lease | None:
    """Wait until this process gets the lease. Returns the lease, or None at a stop."""
    holder = new_holder()
    lease: Lease | None = None
    standby = Standby(log, "relay_stands_by")
    rounds = PollingLoop(dsn, name="relay standby", stop=stop)
    began_at_seconds = time.monotonic()

    async def try_to_take(connection: Connection) -> Work:
        nonlocal lease
        lease = await JOURNAL.take(connection, holder, standby)
        if lease is not None:
            rounds.finish()
        elif time.monotonic() - began_at_seconds > JOURNAL.length.total_seconds():
            # The lease of a killed relay would have ended by now, so a running relay renews it.
            report_started(Started.STANDS_BY)
        return Work.NONE

    try:
        async with woken_at(stop, rounds):
            await rounds.run(try_to_take)
    finally:
        await rounds.close()
    return lease
