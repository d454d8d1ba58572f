"""The transport over RabbitMQ: takes groups from the worker's queue and acknowledges them after their effects are
committed.

- Ack is sent after COMMIT, reject after the commit of the dead letter. After a crash before them the messages are
  delivered again, and the inbox recognises them.
- While the database is unavailable no message is taken: the consumer is paused, so that its unacknowledged messages
  return to the queue for a worker that can handle them. No message is rejected for this reason.
- At stop it finishes and acknowledges the current group; messages that were only prefetched return to the queue.
"""

import asyncio
import time

import structlog

from wallet.postgres.session import Session
from wallet.rabbitmq.connection import BrokerUnavailable
from wallet.rabbitmq.consumer import GROUP_SIZE_MAX, Consumer, Delivery
from wallet.rabbitmq.topology import Topology, TopologyMismatch
from wallet.runtime.failpoints import failpoint
from wallet.runtime.loop import unless_stopped
from wallet.runtime.started import Started, report_started
from wallet.worker.handle import APPLICATION, GroupHandler, GroupSize, run_loop
from wallet.worker.messages import check_messages

_log = structlog.get_logger()


class FromQueue:
    """Runs the turns of one consumer with one database connection."""

    def __init__(self, consumer: Consumer, session: Session, handler: GroupHandler, stop: asyncio.Event) -> None:
        self._consumer = consumer
        self._session = session
        self._handler = handler
        self._stop = stop
        self._group_size = GroupSize(GROUP_SIZE_MAX)

    async def take_turn(self) -> None:
        """Handle and acknowledge one group."""
        # The database is checked first: while it is unavailable no message is taken.
        await self._session.connection()
        await self._consumer.resume()
        try:
            group = await unless_stopped(self._consumer.next_group(self._group_size.current), self._stop)
        except (BrokerUnavailable, TopologyMismatch) as error:
            # No pause is needed here: the consumer waits for its own back-off before it tries again.
            _log.warning("broker_unavailable", reason=str(error))
            report_started(Started.BROKER_IS_AWAY)
            return
        if group is not None:
            try:
                await self._handle(group)
            except BaseException:
                self._group_size.note_failure()
                raise
            self._group_size.note_success()

    async def stand_down(self) -> None:
        """Return the unacknowledged messages to the queue."""
        await self._consumer.pause()

    async def _handle(self, group: list[Delivery]) -> None:
        started = time.monotonic()
        # The connection is requested again, because it may have been lost while the queue was empty.
        handled = await self._handler.handle(await self._session.connection(), group, check_messages)
        await failpoint("worker.before_ack")
        for letter in handled.refused:
            await self._consumer.reject(letter.message)
        await self._consumer.ack(handled.done)
        ms = round((time.monotonic() - started) * 1000, 1)
        _log.debug("group_handled", count=len(group), refused=len(handled.refused), ms=ms)


async def consume(dsn: str, url: str, topology: Topology, handler: GroupHandler, stop: asyncio.Event) -> None:
    """Handle the messages of the worker's queue until `stop`. Raises InvalidBrokerAddress."""
    async with Session(dsn, application_name=APPLICATION) as session, Consumer.open(url, topology) as consumer:
        await run_loop(FromQueue(consumer, session, handler, stop), session, stop)
