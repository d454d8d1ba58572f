"""The worker as a process: picks the transport, and keeps going until asked to stop."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Final

import structlog

from wallet.fraud.rules import FraudRules
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.rabbitmq.connection import InvalidBrokerAddress
from wallet.rabbitmq.consumer import Consumer
from wallet.rabbitmq.topology import Topology
from wallet.runtime.settings import Settings
from wallet.worker.database import Database, DatabaseNotMigrated
from wallet.worker.from_journal import BesideQueue, FromJournal
from wallet.worker.from_queue import FromQueue
from wallet.worker.loop import run_loop
from wallet.worker.progress import run_progress

GIVE_UP_SECONDS: Final = 2.0

_log = structlog.get_logger()


async def run_worker(settings: Settings, stop: asyncio.Event) -> None:
    """Handle events until `stop` is set: from RabbitMQ if RABBITMQ_URL is given, and from the journal.

    Database and broker may be away, at the start and at any time: it waits for them. Any number of workers may run.
    Set `stop` and await the end: the group in hand is finished and acknowledged first. Raises nothing but
    InvalidBrokerAddress.
    """
    following = asyncio.create_task(run_progress(settings.dsn, stop), name="progress of the statistics")
    try:
        await _handle_events(settings, stop)
    finally:
        if not stop.is_set():
            following.cancel()
        await asyncio.wait({following})
    _log.info("worker_stopped")


async def _handle_events(settings: Settings, stop: asyncio.Event) -> None:
    rules = rules_of(settings)
    if settings.amqp_url is None:
        _log.info("worker_started", transport="journal")
        await _follow_journal(FromJournal, settings.dsn, rules, stop)
    else:
        _log.info("worker_started", transport="rabbitmq")
        topology = Topology(settings.rabbitmq_exchange, settings.rabbitmq_dlx)
        await _run_with_rabbitmq(settings.dsn, settings.amqp_url, topology, rules, stop)


def rules_of(settings: Settings) -> FraudRules:
    """The fraud rules as set."""
    return FraudRules(
        settings.fraud_large_withdrawal_threshold,
        settings.fraud_rapid_withdrawal_count,
        timedelta(seconds=settings.fraud_rapid_withdrawal_window_seconds),
    )


async def _run_with_rabbitmq(dsn: str, url: str, topology: Topology, rules: FraudRules, stop: asyncio.Event) -> None:
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_consume(dsn, url, topology, rules, stop))
            tasks.create_task(_follow_journal(BesideQueue, dsn, rules, stop))
    except ExceptionGroup as failures:
        misconfigured = failures.subgroup(InvalidBrokerAddress)
        if misconfigured is None:
            raise
        raise misconfigured.exceptions[0] from None


async def _consume(dsn: str, url: str, topology: Topology, rules: FraudRules, stop: asyncio.Event) -> None:
    async with Database(dsn) as database, Consumer.open(url, topology) as consumer:
        await run_loop(FromQueue(consumer, database, rules, stop), database, stop)


async def _follow_journal(kind: type[FromJournal], dsn: str, rules: FraudRules, stop: asyncio.Event) -> None:
    async with Database(dsn) as database:
        transport = kind(database, rules, stop)
        await run_loop(transport, database, stop)
        with suppress(*DATABASE_ERRORS, DatabaseNotMigrated):
            async with asyncio.timeout(GIVE_UP_SECONDS):
                await transport.give_up()
