"""Measures the relay and the worker, each with a backlog of 100,000 events."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.books import UNPROCESSED, UNPUBLISHED, drain, expect_right_books, now, wait_until
from benchmarks.figures import figure
from benchmarks.ground import Ground, Service, checkpoint, query
from benchmarks.measuring.memory import earlier_and_late, sample_memory
from benchmarks.measuring.turns import Tell, between
from benchmarks.scenarios import MEMORY_EARLIER, Scenario
from benchmarks.verdicts import Measured
from tests.support.broker import message_count
from wallet.rabbitmq.topology import WORKER_QUEUE

# No batch after the head is sealed when a run begins, so all positions after it were sealed by this run.
PUBLISHED: Final = """
select sum(event_count), extract(epoch from max(published_at) - min(sealed_at))::double precision
from journal
where position > $1
"""
PROCESSED: Final = """
select count(*), extract(epoch from max(processed_at) - min(processed_at))::double precision
from processed_events
where processed_at > $1
"""
HEAD: Final = "select position from journal_head"
QUEUE_SECONDS_MAX: Final = 30.0


def measure_relay(ground: Ground, scenario: Scenario, measured: Measured, tell: Tell) -> None:
    """Measures the relay, from sealing the first batch to marking the last one as published."""
    _measure(ground, scenario, measured, tell, _run_relay)


def measure_worker(ground: Ground, scenario: Scenario, measured: Measured, tell: Tell) -> None:
    """Measures the worker, from the database transaction of the first group to that of the last one.

    All messages are in the queue when the worker starts.
    """
    _measure(ground, scenario, measured, tell, _run_worker)


@dataclass(frozen=True, slots=True)
class Worked:
    """The result of one run: events per second, and samples of the memory in megabytes."""

    per_second: float
    memory: list[float]


def _measure(
    ground: Ground, scenario: Scenario, measured: Measured, tell: Tell, run: Callable[[Service], Worked]
) -> None:
    assert scenario.yardstick is not None
    runs: list[Worked] = []
    with between(ground, scenario.yardstick, measured, tell):
        for number in range(1, ground.effort.backlog_runs + 1):
            with ground.database(ground.waiting) as url:
                with ground.vhost() as rabbitmq_url, ground.service(url, rabbitmq_url) as service:
                    checkpoint(url)
                    runs.append(run(service))
                measured.raw["verify"] = expect_right_books(url, directory=ground.directory)
            tell(f"run {number} of {ground.effort.backlog_runs}: {runs[-1].per_second:,.0f} events/s")
    memory = [earlier_and_late(each.memory) for each in runs]
    measured.figures["events"] = figure(*(each.per_second for each in runs))
    measured.against[MEMORY_EARLIER] = figure(*(earlier for earlier, _ in memory))
    measured.figures["memory"] = figure(*(late for _, late in memory))
    measured.raw["memory_megabytes"] = [each.memory for each in runs]


def _run_relay(service: Service) -> Worked:
    url = service.database_url
    [(head,)] = query(url, HEAD)
    relay = service.start("relay")
    memory = sample_memory(relay, lambda: not query(url, UNPUBLISHED)[0][0])
    [(event_count, seconds)] = query(url, PUBLISHED, head)
    relay.stop()
    _expect_in_queue(service, event_count)
    return Worked(event_count / seconds, memory)


def _run_worker(service: Service) -> Worked:
    url = service.database_url
    _run_relay(service)
    checkpoint(url)
    began = now(url)
    worker = service.start("worker")
    memory = sample_memory(worker, lambda: query(url, UNPROCESSED)[0][0] == 0)
    drain(url, since=began)
    [(event_count, seconds)] = query(url, PROCESSED, began)
    worker.stop()
    return Worked(event_count / seconds, memory)


def _expect_in_queue(service: Service, event_count: int) -> None:
    """Waits until the queue has all messages: a quorum queue updates its count shortly after the confirms."""

    def is_there() -> bool:
        return asyncio.run(message_count(service.rabbitmq_url, WORKER_QUEUE)) >= event_count

    wait_until(is_there, f"not all of {event_count:,} messages are in the queue", seconds_max=QUEUE_SECONDS_MAX)
