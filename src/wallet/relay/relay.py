"""The relay: gives committed batches their place in the journal and publishes their events.

Phases: stand by until the lease is free → lead (see term.py): seal, publish and export heads as separate tasks →
at stop seal what is committed, export the head and release the lease, so that another relay takes over at once.

- Sealing goes on while RabbitMQ is away; publishing catches up when it is back.
- Without a RabbitMQ URL a batch is published by being sealed: workers read the journal itself.
- Bounds: 1,000 batches a sealing round, 2,000 events (or one batch) in memory, three database connections.
- A crash leaves nothing to repair: sealing and marking are one transaction each, and what was published but not
  marked is published again. A relay that slept past its lease finds its token gone and stands by.
"""

import asyncio
import os
import socket
import time
from typing import Final

import structlog

from wallet.postgres.connections import Connection
from wallet.rabbitmq.connection import address_of
from wallet.relay.lease import LEASE, Lease, take
from wallet.relay.rounds import Rounds, Work
from wallet.relay.term import Term
from wallet.runtime.loop import Pace, woken_at
from wallet.runtime.settings import Settings
from wallet.runtime.standby import Standby
from wallet.runtime.started import Started, report_started

_RETRY_SECONDS_MIN: Final = 0.1
_RETRY_SECONDS_MAX: Final = 5.0

log = structlog.get_logger()


async def run_relay(settings: Settings, stop: asyncio.Event) -> None:
    """Run until stop is set. No outage ends it, neither the database's nor RabbitMQ's, not even at start.

    Raises InvalidBrokerAddress at start if RABBITMQ_URL can't be read, which no wait would cure.
    """
    if settings.amqp_url is not None:
        address_of(settings.amqp_url)
    pace = Pace(seconds_min=_RETRY_SECONDS_MIN, seconds_max=_RETRY_SECONDS_MAX)
    log.info("relay_started", transport="journal" if settings.amqp_url is None else "rabbitmq")
    async with woken_at(stop, pace):
        while not stop.is_set():
            try:
                lease = await _stand_by(settings.dsn, stop)
                if lease is not None:
                    report_started(Started.LEADS)
                    await Term(settings, stop, lease).lead()
            except Exception:
                # The process's own loop: a bug is logged and tried again, as an outage would be.
                log.exception("relay_failed")
                await pace.wait()


async def _stand_by(dsn: str, stop: asyncio.Event) -> Lease | None:
    """Wait until the lease is ours; None at stop."""
    holder = f"{socket.gethostname()}:{os.getpid()}"
    lease: Lease | None = None
    standby = Standby(log, "relay_stands_by")
    rounds = Rounds(dsn, name="relay standby", stop=stop)
    began_at_seconds = time.monotonic()

    async def try_to_take(connection: Connection) -> Work:
        nonlocal lease
        lease = await take(connection, holder, standby)
        if lease is not None:
            rounds.finish()
        elif time.monotonic() - began_at_seconds > LEASE.total_seconds():
            # A killed relay's lease would have ended by now: a living one renews it.
            report_started(Started.STANDS_BY)
        return Work.NONE

    try:
        async with woken_at(stop, rounds):
            await rounds.run(try_to_take)
    finally:
        await rounds.close()
    return lease
