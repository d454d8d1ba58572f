"""A change of transport loses no event, in either direction, whichever process changes first or ran before."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.database import fetch_rows
from tests.support.event_log import Log
from tests.support.previous_version import unpack_previous_version
from tests.support.processes import Processes
from tests.support.relay import relay_settings, running_relay
from tests.support.worker import has_logged, projections_match, running_worker, until

WAIT_SECONDS_MAX = 20.0


@dataclass
class Deployment:
    """A log, and relays and workers that a test starts and stops, each with or without the broker."""

    log: Log
    database_url: str
    rabbitmq_url: str
    log_dir: Path
    running: list[tuple[str, AsyncExitStack]] = field(default_factory=list)

    async def start(self, kind: str, *, broker: bool) -> None:
        """Start a relay or a worker with this transport."""
        url = self.rabbitmq_url if broker else None
        stack = AsyncExitStack()
        if kind == "relay":
            await stack.enter_async_context(running_relay(relay_settings(self.database_url, url, self.log_dir)))
        else:
            await stack.enter_async_context(running_worker(self.database_url, url))
        self.running.append((kind, stack))

    async def stop(self, kind: str) -> None:
        """Stop every process of a kind, in order."""
        for entry in [entry for entry in self.running if entry[0] == kind]:
            self.running.remove(entry)
            await entry[1].aclose()

    async def commit_deposits(self) -> None:
        """Commit a batch of deposits, unsealed: the relay seals it."""
        for number in range(5):
            self.log.deposit(f"wallet-{number}", 1)
        await self.log.commit(sealed=False)

    async def expect_every_effect(self) -> None:
        """Wait until the statistics are those of every event so far."""
        await until(projections_match, self.database_url, self.log.rows, within=WAIT_SECONDS_MAX)

    async def all_published(self) -> None:
        """Wait until the relay has published every batch, to whatever it publishes to."""
        await until(self._has_published_all, within=WAIT_SECONDS_MAX)

    async def _has_published_all(self) -> bool:
        return not await fetch_rows(self.database_url, "select from journal where published_at is null")


@pytest.fixture
async def deployment(database_url: str, rabbitmq_url: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    """Nothing is started yet; what still runs at the end is stopped."""
    async with Log.open(database_url) as log:
        deployment = Deployment(log, database_url, rabbitmq_url, tmp_path)
        try:
            yield deployment
        finally:
            await deployment.stop("worker")
            await deployment.stop("relay")


@asynccontextmanager
async def broker_worker_at_rest(deployment: Deployment) -> AsyncIterator[list[Any]]:
    """A worker with the broker that has connected to it and has read the journal."""
    with capture_logs() as lines:
        await deployment.start("worker", broker=True)
        await until(has_logged, lines, "consumer_connected")
        yield lines


async def test_a_relay_without_and_a_worker_with_the_broker_deliver_what_no_embedded_worker_has_seen(
    deployment: Deployment,
) -> None:
    await deployment.start("relay", broker=False)
    await deployment.start("worker", broker=True)
    await deployment.commit_deposits()
    await deployment.expect_every_effect()


async def test_what_a_relay_without_the_broker_seals_after_the_workers_changed_is_delivered(
    deployment: Deployment,
) -> None:
    await deployment.start("relay", broker=False)
    await deployment.start("worker", broker=False)
    await deployment.commit_deposits()
    await deployment.expect_every_effect()
    await deployment.stop("worker")
    await deployment.commit_deposits()
    async with broker_worker_at_rest(deployment):
        await deployment.expect_every_effect()
        for _ in range(3):
            await deployment.commit_deposits()
            await deployment.expect_every_effect()


@pytest.mark.parametrize("to_broker", [True, False], ids=["to the broker", "from the broker"])
@pytest.mark.parametrize("first", ["relay", "worker"])
@pytest.mark.parametrize("worker_count", [1, 2])
@pytest.mark.parametrize("with_history", [True, False], ids=["both ran before", "first change"])
async def test_no_event_is_lost_with_either_process_changed_first(
    deployment: Deployment, to_broker: bool, first: str, worker_count: int, with_history: bool
) -> None:
    counts = {"relay": 1, "worker": worker_count}

    async def start(kind: str, *, broker: bool) -> None:
        for _ in range(counts[kind]):
            await deployment.start(kind, broker=broker)

    if with_history:
        for broker in (to_broker, not to_broker):
            await start("relay", broker=broker)
            await start("worker", broker=broker)
            await deployment.commit_deposits()
            await deployment.expect_every_effect()
            await deployment.stop("worker")
            await deployment.stop("relay")
    await start("relay", broker=not to_broker)
    await start("worker", broker=not to_broker)
    await deployment.commit_deposits()
    for kind in ("relay", "worker") if first == "relay" else ("worker", "relay"):
        await deployment.stop(kind)
        await deployment.commit_deposits()
        await start(kind, broker=to_broker)
        await deployment.commit_deposits()
        await deployment.expect_every_effect()
        await deployment.commit_deposits()
        await deployment.all_published()
    await deployment.expect_every_effect()


async def test_relays_of_both_transports_that_take_turns_lose_nothing(deployment: Deployment) -> None:
    await deployment.start("worker", broker=True)
    for broker in (False, True, False, True):
        await deployment.start("relay", broker=broker)
        await deployment.commit_deposits()
        await deployment.all_published()
        await deployment.stop("relay")
    await deployment.expect_every_effect()


async def test_what_is_still_in_the_queue_has_its_effect_by_a_worker_without_the_broker(
    deployment: Deployment,
) -> None:
    await deployment.start("relay", broker=True)
    async with broker_worker_at_rest(deployment):
        await deployment.commit_deposits()
        await deployment.expect_every_effect()
    await deployment.stop("worker")
    await deployment.commit_deposits()
    await deployment.all_published()
    await deployment.start("worker", broker=False)
    await deployment.expect_every_effect()


async def test_what_a_relay_of_the_previous_version_without_the_broker_publishes_is_delivered(
    deployment: Deployment, processes: Processes, tmp_path: Path
) -> None:
    source = str(unpack_previous_version(tmp_path / "previous"))
    settings = {"DATABASE_URL": deployment.database_url, "PYTHONPATH": source}
    await asyncio.to_thread(processes.start_relay, **settings)
    await deployment.start("worker", broker=True)
    await deployment.commit_deposits()
    await deployment.expect_every_effect()
