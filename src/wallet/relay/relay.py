"""The relay: gives committed batches their place in the journal and publishes their events.

Phases: wait until the lease is free → lead (see leadership.py): seal, publish and export heads in separate tasks → at a
stop, seal the committed batches, export the head and release the lease, so that another relay takes over at once.

- Sealing continues while RabbitMQ is unavailable; publishing catches up afterwards.
- Without a RabbitMQ URL, a batch counts as published when it is sealed, because workers read the journal itself.
- Bounds: 1,000 batches in a sealing round, 2,000 events (or one batch) in memory, three database connections.
- A crash leaves nothing to repair: sealing and marking are one transaction each, and events that were published but not
  marked are published again. A relay that was suspended until another one took the lease detects that its token is no
  longer valid, and waits for the lease again.
"""

import asyncio
from typing import Final

import structlog

from wallet.rabbitmq.connection import address_of
from wallet.relay.leadership import Leadership
from wallet.relay.lease import wait_for_lease
from wallet.runtime.loop import Backoff, woken_at
from wallet.runtime.metrics import Metrics
from wallet.runtime.settings import Settings
from wallet.runtime.started import Started, report_started

_RETRY_SECONDS_MIN: Final = 0.1
_RETRY_SECONDS_MAX: Final = 5.0

log = structlog.get_logger()


async def run_relay(settings: Settings, metrics: Metrics, stop: asyncio.Event) -> None:
    """Run until `stop` is set. It survives outages of the database and of RabbitMQ, also at start.

    Raises InvalidBrokerAddress at start if RABBITMQ_URL can't be parsed, because retrying would not help.
    """
    if settings.amqp_url is not None:
        address_of(settings.amqp_url)
    backoff = Backoff(seconds_min=_RETRY_SECONDS_MIN, seconds_max=_RETRY_SECONDS_MAX)
    log.info("relay_started", transport="journal" if settings.amqp_url is None else "rabbitmq")
    async with woken_at(stop, backoff):
        while not stop.is_set():
            try:
                lease = await wait_for_lease(settings.dsn, stop)
                if lease is not None:
                    report_started(Started.LEADS)
                    await Leadership(settings, metrics, stop, lease).lead()
            except Exception:
                # This is the outermost loop of the process: after a bug it logs and tries again, as after an outage.
                log.exception("relay_failed")
                await backoff.wait()
