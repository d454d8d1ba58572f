"""The leadership of a relay: what it does from taking the lease until it loses or releases the lease."""

import asyncio
import time
from typing import Final

import structlog

from wallet.postgres.connections import Connection
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.postgres.lease import Lease, LeaseLost
from wallet.postgres.session import NotMigrated
from wallet.rabbitmq.connection import BrokerUnavailable
from wallet.rabbitmq.publisher import NotPublished, Publisher
from wallet.rabbitmq.topology import Topology, TopologyMismatch
from wallet.relay.lease import RENEW_SECONDS
from wallet.relay.polling_loop import PollingLoop, Work
from wallet.relay.publish import BatchPublisher, mark_without_broker
from wallet.relay.seal import BATCHES_MAX, EXPORT_SECONDS, export_head, seal_batches
from wallet.runtime.failpoints import failpoint
from wallet.runtime.loop import Backoff, is_set_within, woken_at
from wallet.runtime.metrics import Counter, Metrics
from wallet.runtime.settings import Settings

# How long the stop waits for a window in flight to be confirmed and marked. After that, it will be published again.
STOP_SECONDS: Final = 5.0
_RETRY_SECONDS_MIN: Final = 0.1
_RETRY_SECONDS_MAX: Final = 5.0

SEALED: Final = Counter("wallet_relay_batches_sealed", "Batches that were given a position.", process="relay")

log = structlog.get_logger()


class Leadership:
    """Seals, publishes and exports heads under one lease. An object is used for one lease only."""

    def __init__(self, settings: Settings, metrics: Metrics, stop: asyncio.Event, lease: Lease) -> None:
        self._settings = settings
        self._metrics = metrics
        self._stop = stop
        self._lease = lease
        self._renew_at = time.monotonic() + RENEW_SECONDS
        self._sealing = PollingLoop(settings.dsn, name="relay seal", stop=stop)
        self._publishing = PollingLoop(settings.dsn, name="relay publish", stop=stop)
        self._broker_backoff = Backoff(seconds_min=_RETRY_SECONDS_MIN, seconds_max=_RETRY_SECONDS_MAX)
        self._broker_failure: str | None = None
        self._is_lost = False

    async def lead(self) -> None:
        """Lead until the stop, or until another relay has the lease.

        At a stop, also seal what remains, export the head and release the lease.
        """
        log.info("lease_taken", holder=self._lease.holder, token=self._lease.token)
        try:
            async with (
                woken_at(self._stop, self._sealing, self._publishing, self._broker_backoff),
                asyncio.TaskGroup() as tasks,
            ):
                tasks.create_task(self._sealing.run(self._seal_round))
                publishing = tasks.create_task(self._publish())
                tasks.create_task(self._export_heads())
                tasks.create_task(self._end_at_stop(publishing))
        except* LeaseLost:
            self._is_lost = True
            log.warning("lease_lost", token=self._lease.token)
        finally:
            await self._end()

    async def _seal_round(self, connection: Connection) -> Work:
        if time.monotonic() >= self._renew_at:
            await self._lease.renew(connection)
            self._renew_at = time.monotonic() + RENEW_SECONDS
        count = await seal_batches(connection, self._lease, is_published=self._settings.amqp_url is None)
        if count == 0:
            return Work.NONE
        self._metrics.add(SEALED, count)
        log.debug("batches_sealed", batch_count=count)
        await failpoint("relay.after_seal")
        self._publishing.wake()
        return Work.MORE if count == BATCHES_MAX else Work.SOME

    async def _publish(self) -> None:
        url = self._settings.amqp_url
        if url is None:
            await self._publishing.run(self._mark_leftovers)
            return
        topology = Topology(self._settings.rabbitmq_exchange, self._settings.rabbitmq_dlx)
        while not self._stop.is_set():
            try:
                async with Publisher.open(url, topology, name="wallet relay") as publisher:
                    log.info("broker_connected")
                    await self._publish_to(publisher)
            except (BrokerUnavailable, TopologyMismatch, NotPublished) as error:
                self._log_broker_failure(error)
                await self._broker_backoff.wait()

    async def _publish_to(self, publisher: Publisher) -> None:
        batch_publisher = BatchPublisher(publisher, self._lease, self._metrics)

        async def publish_round(connection: Connection) -> Work:
            work = await batch_publisher.publish_round(connection)
            if work is not Work.NONE:
                self._broker_failure = None
                self._broker_backoff.reset()
            return work

        await self._publishing.run(publish_round)

    async def _mark_leftovers(self, connection: Connection) -> Work:
        if await mark_without_broker(connection, self._lease):
            return Work.MORE
        self._publishing.finish()
        return Work.NONE

    def _log_broker_failure(self, error: Exception) -> None:
        # Log a change of the state, not each attempt, because an outage may last for hours.
        if str(error) != self._broker_failure:
            self._broker_failure = str(error)
            log.warning("broker_unavailable", kind=type(error).__name__, error=str(error))

    async def _export_heads(self) -> None:
        while not await is_set_within(self._stop, EXPORT_SECONDS):
            await self._export_head()

    async def _export_head(self) -> None:
        rounds = PollingLoop(self._settings.dsn, name="relay heads", stop=self._stop)
        try:
            await export_head(await rounds.connection(), self._settings.log_dir)
        except (*DATABASE_ERRORS, NotMigrated) as error:
            log.warning("journal_head_not_exported", error=repr(error))
        finally:
            await rounds.close()

    async def _end_at_stop(self, publishing: asyncio.Task[None]) -> None:
        await self._stop.wait()
        await asyncio.wait({publishing}, timeout=STOP_SECONDS)
        publishing.cancel()

    async def _end(self) -> None:
        await self._publishing.close()
        try:
            if not self._is_lost:
                await self._hand_over()
        finally:
            await self._sealing.close()

    async def _seal_the_rest(self) -> None:
        """Seal what was committed since the last round, so that the exported head covers it."""
        try:
            while await self._seal_round(await self._sealing.connection()) is Work.MORE:
                pass
        except LeaseLost:
            log.warning("lease_lost", token=self._lease.token)
        except (*DATABASE_ERRORS, NotMigrated) as error:
            log.warning("journal_not_sealed_at_stop", error=repr(error))

    async def _hand_over(self) -> None:
        if self._stop.is_set():
            await self._seal_the_rest()
            await self._export_head()
        try:
            await self._lease.release(await self._sealing.connection())
            log.info("lease_released", token=self._lease.token)
        except (*DATABASE_ERRORS, NotMigrated) as error:
            # The lease ends by itself in a few seconds.
            log.warning("lease_not_released", token=self._lease.token, error=repr(error))
