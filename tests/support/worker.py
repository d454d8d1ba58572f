"""A running worker for a test, messages for its queue, and its results."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

import pika
from pydantic import SecretStr
from structlog.typing import EventDict

from tests.support.database import fetch_rows
from tests.support.event_log import Row
from tests.support.waiting import eventually
from wallet.domain.analytics import LoggedEvent, fold
from wallet.fraud.rules import FraudRules, alerts_of, suspicious_reason
from wallet.rabbitmq.publisher import OutgoingMessage, Publisher
from wallet.rabbitmq.topology import DEAD_LETTER_QUEUE, WORKER_QUEUE, Topology
from wallet.runtime.metrics import Metrics
from wallet.runtime.settings import Settings
from wallet.worker.process import run_worker

RULES: Final = FraudRules(Decimal(10_000), 3, timedelta(seconds=60))
STOP_SECONDS_MAX: Final = 15.0


def settings_for(database_url: str, rabbitmq_url: str | None) -> Settings:
    """Returns settings with default limits; without a broker the worker reads the journal."""
    return Settings(
        database_url=SecretStr(database_url), rabbitmq_url=SecretStr(rabbitmq_url) if rabbitmq_url else None
    )


@asynccontextmanager
async def running_worker(database_url: str, rabbitmq_url: str | None) -> AsyncIterator["asyncio.Task[None]"]:
    """Yields a running worker, and stops it at the end; a test may cancel it before, to simulate a crash."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_worker(settings_for(database_url, rabbitmq_url), Metrics("worker"), stop))
    try:
        yield task
    finally:
        stop.set()
        async with asyncio.timeout(STOP_SECONDS_MAX):
            await asyncio.wait({task})
    if not task.cancelled():
        task.result()


async def publish(rabbitmq_url: str, messages: Iterable[OutgoingMessage | Row]) -> None:
    """Publish to the exchange, in this order, with confirms."""
    ready = [message.message() if isinstance(message, Row) else message for message in messages]
    async with Publisher.open(rabbitmq_url, Topology(), name="test") as publisher:
        assert await publisher.publish(ready) == frozenset()


async def queue_counts(rabbitmq_url: str) -> tuple[int, int]:
    """Returns how many messages are ready in the worker's queue and in the dead-letter queue."""
    return await asyncio.to_thread(_queue_counts, rabbitmq_url)


async def dead_letter_bodies(rabbitmq_url: str) -> list[bytes]:
    """Returns the bodies in the dead-letter queue, without removing them."""
    return await asyncio.to_thread(_dead_letter_bodies, rabbitmq_url)


def _queue_counts(url: str) -> tuple[int, int]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        channel = connection.channel()
        declared = [channel.queue_declare(queue, passive=True) for queue in (WORKER_QUEUE, DEAD_LETTER_QUEUE)]
        return declared[0].method.message_count, declared[1].method.message_count
    finally:
        connection.close()


def _dead_letter_bodies(url: str) -> list[bytes]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        channel = connection.channel()
        bodies: list[bytes] = []
        while (body := channel.basic_get(DEAD_LETTER_QUEUE)[2]) is not None:
            bodies.append(body)
        return bodies
    finally:
        connection.close()


async def until(condition: Callable[..., Awaitable[object]], *arguments: object, within: float = 20.0) -> None:
    """Wait until the condition, called with these arguments, returns a true value."""

    async def is_met() -> bool:
        return bool(await condition(*arguments))

    met: Callable[[], Awaitable[bool] | bool] = is_met
    await eventually(met, within=within)


async def has_logged(lines: Sequence[EventDict], event: str) -> bool:
    """Returns whether a line with this event was logged. A condition to wait for."""
    return any(line["event"] == event for line in lines)


async def is_drained(rabbitmq_url: str) -> bool:
    """Assert that both queues are empty. A condition to wait for."""
    assert await queue_counts(rabbitmq_url) == (0, 0)
    return True


Stats = dict[str, tuple[Any, ...]]
Alerts = set[tuple[str, str, Any]]


def expected_stats(events: Sequence[LoggedEvent]) -> Stats:
    """Returns what wallet_stats must contain for these events, each counted once."""
    alerts = alerts_of(events, RULES)
    stats: Stats = {}
    for wallet_id, totals in fold(events).items():
        reason = suspicious_reason(alert for alert in alerts if alert.wallet_id == wallet_id)
        stats[wallet_id] = (
            totals.deposited,
            totals.withdrawn,
            totals.transferred_out,
            totals.transferred_in,
            totals.last_activity_at,
            reason is not None,
            reason,
        )
    return stats


def expected_alerts(events: Sequence[LoggedEvent]) -> Alerts:
    """Returns what fraud_alerts must contain for these events."""
    return {(alert.wallet_id, alert.rule.value, alert.event_id) for alert in alerts_of(events, RULES)}


async def stored_stats(database_url: str) -> Stats:
    """Returns the content of wallet_stats."""
    rows = await fetch_rows(
        database_url,
        "select wallet_id, total_deposited, total_withdrawn, total_transferred_out, total_transferred_in,"
        " last_activity_at, suspicious, suspicious_reason from wallet_stats",
    )
    return {row[0]: row[1:] for row in rows}


async def stored_alerts(database_url: str) -> Alerts:
    """Returns the content of fraud_alerts."""
    return {
        (row[0], row[1], row[2])
        for row in await fetch_rows(database_url, "select wallet_id, rule, event_id from fraud_alerts")
    }


async def projections_match(database_url: str, rows: Sequence[Row]) -> bool:
    """Assert that statistics and alerts are those of these events. A condition to wait for."""
    events = [row.logged() for row in rows]
    assert await stored_stats(database_url) == expected_stats(events)
    assert await stored_alerts(database_url) == expected_alerts(events)
    return True


@dataclass(frozen=True, slots=True)
class Wire:
    """A database and one of the two transports."""

    database_url: str
    rabbitmq_url: str | None

    def worker(self) -> AbstractAsyncContextManager[asyncio.Task[None]]:
        """Returns a context manager with a running worker on this transport."""
        return running_worker(self.database_url, self.rabbitmq_url)

    async def deliver(self, rows: Iterable[Row]) -> None:
        """Publish committed rows for the worker; without a broker it reads them from the journal by itself."""
        if self.rabbitmq_url is not None:
            await publish(self.rabbitmq_url, rows)

    async def matches(self, rows: Sequence[Row]) -> None:
        """Wait until statistics and alerts are those of these events."""
        await until(projections_match, self.database_url, rows, within=30)
