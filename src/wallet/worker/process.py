"""The worker process: chooses the transport, and runs until it is asked to stop."""

import asyncio

import structlog

from wallet.fraud.rules import FraudRules
from wallet.rabbitmq.connection import InvalidBrokerAddress
from wallet.rabbitmq.topology import Topology
from wallet.runtime.metrics import Metrics
from wallet.runtime.settings import Settings
from wallet.worker.from_queue import consume
from wallet.worker.handle import GroupHandler
from wallet.worker.journal import BesideQueue, FromJournal, follow_journal
from wallet.worker.progress import run_progress

_log = structlog.get_logger()


async def run_worker(settings: Settings, metrics: Metrics, stop: asyncio.Event) -> None:
    """Handle events until `stop` is set: from RabbitMQ if RABBITMQ_URL is given, and from the journal.

    Database and broker may be unavailable at the start and at any time; the worker waits for them. Any number of
    workers may run. After `stop` is set, the current group is finished and acknowledged before this returns. Raises
    only InvalidBrokerAddress.
    """
    handler = GroupHandler(FraudRules.of(settings), metrics)
    progress = run_progress(settings.dsn, handler.handled, stop)
    following = asyncio.create_task(progress, name="progress of the statistics")
    try:
        await _handle_events(settings, handler, stop)
    finally:
        if not stop.is_set():
            following.cancel()
        await asyncio.wait({following})
    _log.info("worker_stopped")


async def _handle_events(settings: Settings, handler: GroupHandler, stop: asyncio.Event) -> None:
    _log.info("worker_started", transport="journal" if settings.amqp_url is None else "rabbitmq")
    if settings.amqp_url is None:
        await follow_journal(FromJournal, settings.dsn, handler, stop)
        return
    topology = Topology(settings.rabbitmq_exchange, settings.rabbitmq_dlx)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(consume(settings.dsn, settings.amqp_url, topology, handler, stop))
            tasks.create_task(follow_journal(BesideQueue, settings.dsn, handler, stop))
    except ExceptionGroup as failures:
        misconfigured = failures.subgroup(InvalidBrokerAddress)
        if misconfigured is None:
            raise
        raise misconfigured.exceptions[0] from None
