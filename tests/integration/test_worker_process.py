"""The worker as a real process: killed before COMMIT and between COMMIT and ack, and asked to stop under load."""

import asyncio
import signal

import pytest

from tests.support.broker import save_queue_directory
from tests.support.database import fetch_rows
from tests.support.event_log import Log, Row
from tests.support.processes import Processes
from tests.support.rabbitmq import RabbitMQServer
from tests.support.worker import Wire, is_drained, projections_match, queue_counts, running_worker, until
from wallet.rabbitmq.connection import InvalidBrokerAddress


@pytest.fixture(params=["rabbitmq", "journal"])
def wire(request: pytest.FixtureRequest, database_url: str) -> Wire:
    """Each of the two transports in turn."""
    has_broker = request.param == "rabbitmq"
    return Wire(database_url, request.getfixturevalue("rabbitmq_url") if has_broker else None)


def settings_of(wire: Wire, failpoints: str = "") -> dict[str, str]:
    """The environment of a worker on this transport."""
    return {
        "DATABASE_URL": wire.database_url,
        "RABBITMQ_URL": wire.rabbitmq_url or "",
        "WALLET_FAILPOINTS": failpoints,
        "LOG_LEVEL": "debug",
    }


async def write_deposits(wire: Wire, count: int) -> list[Row]:
    async with Log.open(wire.database_url) as log:
        for number in range(count):
            log.deposit(f"wallet-{number % 13}", 1)
            if number % 100 == 99:
                await log.commit()
        await log.commit()
        return log.rows


async def test_killed_before_its_commit_the_next_one_gives_every_event_its_effect_once(
    wire: Wire, processes: Processes
) -> None:
    rows = await write_deposits(wire, 1_000)
    killed = processes.start("worker", settings=settings_of(wire, "worker.before_commit=kill@3"))
    await wire.deliver(rows)
    assert await asyncio.to_thread(killed.wait) == -signal.SIGKILL
    assert 0 < len(await fetch_rows(wire.database_url, "select event_id from processed_events")) < len(rows)
    processes.start("worker", settings=settings_of(wire))
    await wire.matches(rows)


async def test_killed_between_commit_and_ack_the_next_one_counts_nothing_twice(
    database_url: str, rabbitmq_url: str, processes: Processes
) -> None:
    wire = Wire(database_url, rabbitmq_url)
    rows = await write_deposits(wire, 1_000)
    killed = processes.start("worker", settings=settings_of(wire, "worker.before_ack=kill@3"))
    await wire.deliver(rows)
    assert await asyncio.to_thread(killed.wait) == -signal.SIGKILL
    successor = processes.start("worker", settings=settings_of(wire))
    await wire.matches(rows)
    await until(is_drained, rabbitmq_url)
    assert successor.stop() == 0
    assert await projections_match(database_url, rows)


async def test_asked_to_stop_under_load_it_ends_well_and_what_it_handled_does_not_come_again(
    wire: Wire, processes: Processes
) -> None:
    rows = await write_deposits(wire, 5_000)
    worker = processes.start("worker", settings=settings_of(wire))
    await wire.deliver(rows)
    await until(fetch_rows, wire.database_url, "select from processed_events limit 1")
    assert await asyncio.to_thread(worker.stop) == 0
    handled = len(await fetch_rows(wire.database_url, "select event_id from processed_events"))
    if wire.rabbitmq_url is not None:
        assert await queue_counts(wire.rabbitmq_url) == (len(rows) - handled, 0)
    processes.start("worker", settings=settings_of(wire))
    await wire.matches(rows)


async def test_a_worker_outlives_its_broker_being_absent_and_killed(
    database_url: str, rabbitmq_url: str, processes: Processes, rabbitmq_server: RabbitMQServer
) -> None:
    wire = Wire(database_url, rabbitmq_url)
    await asyncio.to_thread(rabbitmq_server.stop)
    processes.start_worker(**settings_of(wire))
    await asyncio.to_thread(rabbitmq_server.start)
    async with Log.open(database_url) as log:
        log.deposit("alice", 1)
        await wire.deliver(await log.commit())
        await wire.matches(log.rows)
        await asyncio.to_thread(save_queue_directory, rabbitmq_server)
        await asyncio.to_thread(rabbitmq_server.kill)
        await asyncio.to_thread(rabbitmq_server.start)
        log.deposit("alice", 1)
        await wire.deliver(await log.commit())
        await wire.matches(log.rows)
    await until(is_drained, rabbitmq_url)


async def test_a_broker_address_that_cannot_be_read_ends_the_worker_with_that_error(database_url: str) -> None:
    with pytest.raises(InvalidBrokerAddress):
        async with running_worker(database_url, "amqp://guest:s3cret@host/?heartbeat=soon") as task:
            await asyncio.wait({task})
