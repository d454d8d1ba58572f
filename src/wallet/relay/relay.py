"""The relay: gives committed batches their place in the journal and publishes their events.

Phases: stand by until the lease is free → lead (see leadership.py): seal, publish and export heads as separate tasks →
at stop seal what is committed, export the head and release the lease, so that another relay takes over at once.

- Sealing goes on while RabbitMQ is away; publishing catches up when it is back.
- Without a RabbitMQ URL a batch is published by being sealed: workers read the journal itself.
- Bounds: 1,000 batches a sealing round, 2,000 events (or one batch) in memory, three database connections.
- A crash leaves nothing to repair: sealing and marking are one transaction each, and what was published but not
  marked is published again. A relay that slept past its lease finds its token gone and stands by.
"""

import asyncio
from typing import Final

import structlog

from wallet.rabbitmq.connection import address_of
from wallet.relay.leadership import Leadership
from wallet.relay.lease import wait_for_lease
from wallet.runtime.loop import Backoff, woken_at
from wallet.runtime.settings import Settings
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
    pace = Backoff(seconds_min=_RETRY_SECONDS_MIN, seconds_max=_RETRY_SECONDS_MAX)
    log.info("relay_started", transport="journal" if settings.amqp_url is None else "rabbitmq")
    async with woken_at(stop, pace):
        while not stop.is_set():
            try:
                lease = await wait_for_lease(settings.dsn, stop)
                if lease is not None:
                    report_started(Started.LEADS)
                    await Leadership(settings, stop, lease).lead()
            except Exception:
                # The process's own loop: a bug is logged and tried again, as an outage would be.
                log.exception("relay_failed")
                await pace.wait()
