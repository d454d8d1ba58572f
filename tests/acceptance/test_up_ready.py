"""When `wallet up` prints `ready`, and what it prints then."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.support.client import deposit_once
from tests.support.database import connected
from tests.support.ports import free_port
from tests.support.processes import Processes, WalletProcess
from tests.support.waiting import eventually_blocking

POLLS = 5
"""How often `up` has asked the api, at least, before it may be said that it goes on waiting."""


@asynccontextmanager
async def locked(database_url: str, table: str) -> AsyncIterator[None]:
    """A table with one row, which nobody else can change meanwhile."""
    async with connected(database_url) as connection, connection.transaction():
        await connection.execute(f"select from {table} for update")
        yield


def has_waited(up: WalletProcess) -> bool:
    """Whether `up` has asked an api that is ready a few times, or printed `ready`."""
    if "ready http://" in up.output():
        return True
    try:
        scrape = httpx.get(f"{up.url}/metrics", trust_env=False).text
    except httpx.TransportError:
        return False
    answered = 'wallet_http_request_seconds_count{method="GET",route="/readyz",status="200"} '
    counts = [float(line.removeprefix(answered)) for line in scrape.splitlines() if line.startswith(answered)]
    return bool(counts) and counts[0] >= POLLS


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_ready_waits_for_the_relay_and_a_stop_right_after_it_exports_a_head(
    workers: str, processes: Processes, database_url: str
) -> None:
    async with locked(database_url, "journal_head"):
        up = processes.start("up", "--workers", workers, settings={"DATABASE_URL": database_url})
        processes.wait_until(up, lambda: has_waited(up))
        assert "ready http://" not in up.output()
    processes.wait_until(up, lambda: "ready http://" in up.output())
    assert up.stop() == 0
    assert (up.directory / "logs" / "journal-heads.log").read_text().count("\n") == 1


async def test_ready_waits_for_the_worker(processes: Processes, database_url: str) -> None:
    async with locked(database_url, "worker_checkpoint"):
        up = processes.start("up", settings={"DATABASE_URL": database_url})
        processes.wait_until(up, lambda: has_waited(up))
        assert "ready http://" not in up.output()
    processes.wait_until(up, lambda: "ready http://" in up.output())
    assert up.stop() == 0


def test_with_a_broker_it_is_ready_when_the_worker_consumes(
    processes: Processes, database_url: str, rabbitmq_url: str
) -> None:
    up = processes.start_up(DATABASE_URL=database_url, RABBITMQ_URL=rabbitmq_url)
    eventually_blocking(lambda: "consumer_connected" in up.logs())  # A process writes its log a little later.
    assert "RabbitMQ can't be reached" not in up.output()
    assert up.stop() == 0


def test_a_broker_that_is_away_does_not_delay_ready_and_is_named(processes: Processes, database_url: str) -> None:
    away = f"amqp://guest:hunter2@127.0.0.1:{free_port()}/"
    up = processes.start_up(DATABASE_URL=database_url, RABBITMQ_URL=away)
    eventually_blocking(lambda: "RabbitMQ can't be reached: events wait in the journal until it is back" in up.output())
    deposit_once(up.url)
    assert up.stop() == 0


def test_a_request_is_a_line_on_the_terminal_or_it_says_why_there_is_none(
    processes: Processes, database_url: str
) -> None:
    up = processes.start_up(DATABASE_URL=database_url, FORCE_COLOR="1", COLUMNS="100")
    deposit_once(up.url)
    eventually_blocking(lambda: re.search(r"POST +/wallet/alice/deposit .*201.* ms", up.output()))
    assert up.stop() == 0
    for setting in ({"LOG_REQUESTS": "false"}, {"LOG_LEVEL": "warning"}):
        up = processes.start_up(DATABASE_URL=database_url, FORCE_COLOR="1", **setting)
        eventually_blocking(lambda: "requests are not shown" in up.output())  # noqa: B023 - called at once
        assert up.stop() == 0


def request_line(number: int, path: str = "/wallet/alice/deposit") -> str:
    """As the api logs a request."""
    line = {"level": "info", "event": "request", "method": "POST", "path": path, "status": 201, "ms": number + 0.25}
    return json.dumps(line, separators=(",", ":")) + "\n"


@pytest.mark.parametrize(
    ("arguments", "settings", "is_shown"),
    [([], {"FORCE_COLOR": "1"}, True), (["--quiet"], {"FORCE_COLOR": "1"}, False), ([], {}, False)],
    ids=["terminal", "quiet", "no terminal"],
)
def test_on_a_terminal_each_request_is_a_line(
    arguments: list[str], settings: dict[str, str], is_shown: bool, processes: Processes, database_url: str
) -> None:
    up = processes.start_up(*arguments, DATABASE_URL=database_url, **settings)
    log = up.directory / "logs" / "api.log"
    eventually_blocking(log.exists)
    with log.open("a") as api_log:
        api_log.write(request_line(1))
    if is_shown:
        eventually_blocking(lambda: re.search(r"POST +/wallet/alice/deposit .*201.* 1\.2 ms", up.output()))
    assert up.stop() == 0
    assert ("/deposit " in up.output().partition("Ctrl-C stops everything")[2]) is is_shown
