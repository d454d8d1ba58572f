"""`wallet api --workers 2`: two processes behind one port are one api, whatever happens to either of them."""

import asyncio
import json
import re
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.books import assert_books_are_right
from tests.support.client import Client, Reply, deposit_once, open_client, random_load, send_random_operations
from tests.support.database import fetch_value
from tests.support.ports import free_port
from tests.support.processes import ROOT, Processes, WalletProcess
from tests.support.sessions import family_of, wait_until_ended
from tests.support.waiting import eventually, eventually_blocking

FINAL_STATUSES = {201, 400, 404}
BALANCE = "select balance::text from wallets where wallet_id = $1"


@dataclass(frozen=True)
class Workers:
    """The parent of two api processes, and what it left where."""

    parent: WalletProcess
    temporary: Path

    @property
    def children(self) -> list[psutil.Process]:
        """The processes that serve, oldest first."""
        return sorted(psutil.Process(self.parent.pid).children(), key=lambda child: child.create_time())

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of this name in api.log."""
        path = self.parent.directory / "logs" / "api.log"
        # The last line may be half written; that every other is whole shows that both can write to one file.
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def serving(self) -> set[int]:
        """The numbers of the processes that have answered a POST."""
        return {event["process"] for event in self.events("request") if event["method"] == "POST"}

    def holds_its_port(self) -> bool:
        """Whether the parent has begun: it makes this directory after it has taken the port."""
        return bool(list(self.temporary.glob("wallet-api-*")))

    def has_left_nothing(self) -> bool:
        """Whether the directory for its temporary files is empty."""
        return not list(self.temporary.iterdir())


@dataclass(frozen=True)
class Starter:
    """Starts an api of two processes on a database."""

    processes: Processes
    database_url: str
    temporary: Path

    def start(self, *arguments: str, port: int | None = None, **settings: str) -> Workers:
        """Start it and wait for nothing."""
        given = {"DATABASE_URL": self.database_url, "TMPDIR": str(self.temporary), "LOG_LEVEL": "debug", **settings}
        parent = self.processes.start("api", "--workers", "2", *arguments, settings=given, port=port)
        return Workers(parent, self.temporary)

    def start_ready(self, *, port: int | None = None, **settings: str) -> Workers:
        """Start it and wait until both processes serve."""
        workers = self.start(port=port, **settings)
        self.processes.wait_until(workers.parent, lambda: len(workers.events("api_ready")) == 2)
        return workers


@pytest.fixture
def starter(processes: Processes, database_url: str, tmp_path: Path) -> Starter:
    """Two processes with a separate database, not yet started."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    return Starter(processes, database_url, temporary)


async def test_random_operations_over_both_leave_right_books_and_true_metrics(starter: Starter, seed: int) -> None:
    workers = starter.start_ready()
    async with open_client(workers.parent.url) as client:
        statuses = await send_random_operations(client, seed=seed, count=1000, concurrency=100)
    assert set(client.seen) <= FINAL_STATUSES, client.seen
    assert statuses.total() == 1000
    await assert_books_are_right(starter.database_url)
    await eventually(lambda: workers.serving() == {1, 2})
    metrics = workers.parent.metrics()
    posts = {series: value for series, value in metrics.items() if "seconds_count" in series and "POST" in series}
    answered = Counter[int]()
    for series, value in posts.items():
        answered[int(re.findall(r'status="(\d+)"', series)[0])] += int(value)
    assert answered == statuses
    assert (metrics["wallet_api_processes"], metrics["wallet_trail_rows_lost_total"]) == (2, 0)
    await eventually(lambda: workers.parent.metrics()["wallet_ledger_queue_depth"] == 0)
    assert "process_cpu_seconds_total" not in metrics


async def test_a_key_sent_two_hundred_times_at_once_to_both_has_one_effect_and_one_answer(starter: Starter) -> None:
    workers = starter.start_ready()
    async with open_client(workers.parent.url) as client:
        body = {"amount": "7", "requestId": "same"}
        answers = await asyncio.gather(*(client.post("/wallet/alice/deposit", body) for _ in range(200)))
        other = await client.post("/wallet/alice/deposit", {"amount": "8", "requestId": "same"})
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    assert (other.status, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await fetch_value(starter.database_url, BALANCE, "alice") == "7.0000"
    await eventually(lambda: workers.serving() == {1, 2})
    await assert_books_are_right(starter.database_url)


async def test_transfers_both_ways_and_a_hot_wallet_over_both_reach_every_client(starter: Starter) -> None:
    workers = starter.start_ready()
    async with open_client(workers.parent.url) as client:
        for name in ("a", "b"):
            await client.post(f"/wallet/{name}/deposit", {"amount": 1000})
        storm = [
            client.post(f"/wallet/{one}/transfer", {"toWalletId": two, "amount": 1, "requestId": f"{one}-{number}"})
            for number in range(150)
            for one, two in (("a", "b"), ("b", "a"))
        ]
        hot = [client.post("/wallet/hot/deposit", {"amount": 1, "requestId": f"hot-{n}"}) for n in range(500)]
        replies = await asyncio.gather(*storm, *hot)
        assert {reply.status for reply in replies} == {201}
        assert set(client.seen) == {201}, client.seen
        balances = [(await client.get(f"/wallet/{name}"))["balance"] for name in ("a", "b", "hot")]
    assert balances == ["1000.0000", "1000.0000", "500.0000"]
    await eventually(lambda: workers.serving() == {1, 2})
    await assert_books_are_right(starter.database_url)


@asynccontextmanager
async def fresh_deposits(client: Client, *, concurrency: int = 40) -> AsyncIterator[list[Reply]]:
    """Deposits for as long as the block runs, each with a new key, sent again only if no answer came."""
    is_on = True
    replies: list[Reply] = []

    async def deposit_some(sender: int) -> None:
        number = 0
        while is_on:
            number += 1
            body = {"amount": 1, "requestId": f"{sender}-{number}"}
            replies.append(await client.post(f"/wallet/w{number % 20}/deposit", body))

    async with asyncio.TaskGroup() as sending:
        for sender in range(concurrency):
            sending.create_task(deposit_some(sender))
        try:
            yield replies
        finally:
            is_on = False


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_under_load_loses_no_answer_to_a_request_that_was_read(
    starter: Starter, signal_number: signal.Signals
) -> None:
    port = free_port()
    workers = starter.start_ready(port=port)
    async with open_client(workers.parent.url) as client:
        async with fresh_deposits(client) as replies:
            for _ in range(2):
                await client.more_answers(300)
                assert await asyncio.to_thread(workers.parent.stop, signal_number) == 0
                assert workers.has_left_nothing()
                workers = await asyncio.to_thread(starter.start_ready, port=port)
            await client.more_answers(300)
        assert {seen for seen in client.seen if isinstance(seen, int)} == {201}, client.seen
    # A replay would be a deposit that was made and not answered.
    assert [reply for reply in replies if "Idempotency-Replayed" in reply.headers] == []
    assert await fetch_value(starter.database_url, "select count(*) from operations") == len(replies)
    await assert_books_are_right(starter.database_url)


async def test_one_process_may_be_stopped_under_load_and_no_client_that_retries_notices(starter: Starter) -> None:
    workers = starter.start_ready()
    async with open_client(workers.parent.url) as client:
        async with fresh_deposits(client) as replies:
            for ready in (3, 4):
                await client.more_answers(300)
                workers.children[0].terminate()
                await eventually(lambda ready=ready: len(workers.events("api_ready")) == ready)  # type: ignore[misc]
            await client.more_answers(300)
        assert {seen for seen in client.seen if isinstance(seen, int)} == {201}, client.seen
    assert [reply for reply in replies if "Idempotency-Replayed" in reply.headers] == []
    assert {event["process"] for event in workers.events("api_ready")} == {1, 2}
    await assert_books_are_right(starter.database_url)


async def test_a_killed_process_is_started_again_and_its_keys_find_their_outcome(starter: Starter, seed: int) -> None:
    workers = starter.start_ready()
    async with open_client(workers.parent.url) as client:
        async with random_load(client, seed=seed) as statuses:
            for ready in (3, 4):
                await client.more_answers(200)
                workers.children[0].kill()
                await eventually(lambda ready=ready: len(workers.events("api_ready")) == ready)  # type: ignore[misc]
            await client.more_answers(200)
        assert set(statuses) <= FINAL_STATUSES, statuses
        assert {seen for seen in client.seen if isinstance(seen, int)} <= FINAL_STATUSES, client.seen
    assert workers.parent.output().count("ended by itself (exit code -9)") == 2
    await assert_books_are_right(starter.database_url)
    metrics = await eventually(
        lambda: found if (found := workers.parent.metrics())["wallet_api_processes"] == 2 else None
    )
    counted = sum(value for series, value in metrics.items() if "seconds_count" in series and "POST" in series)
    # What the killed ones had counted stays; an answer they were about to send may be missing.
    assert counted >= sum(count for seen, count in client.seen.items() if isinstance(seen, int))
    assert workers.parent.stop() == 0
    assert workers.has_left_nothing()


def test_nothing_outlives_a_killed_parent(starter: Starter) -> None:
    port = free_port()
    workers = starter.start_ready(port=port)
    family = family_of(workers.parent.pid)
    assert len(family) == 3
    workers.parent.send_signal(signal.SIGKILL)
    wait_until_ended(family)
    assert workers.has_left_nothing()
    assert starter.start_ready(port=port).parent.stop() == 0


MOMENTS: dict[str, Callable[[Workers], bool]] = {
    "port held": Workers.holds_its_port,
    "first made": lambda workers: len(workers.children) == 1,
    "first ready": lambda workers: bool(workers.events("api_ready")),
    "second made": lambda workers: len(workers.children) == 2,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stop_while_they_are_made_leaves_nothing_behind(starter: Starter, moment: str) -> None:
    workers = starter.start()
    eventually_blocking(lambda: MOMENTS[moment](workers), within=30, every=0.001)
    family = family_of(workers.parent.pid)
    assert workers.parent.stop() == 0
    assert not [process for process in family if process.is_running()]
    assert workers.has_left_nothing()


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def test_a_port_in_use_is_one_clear_line(starter: Starter) -> None:
    with taken_port() as port:
        refused = starter.start(port=port)
        assert refused.parent.wait() == 2
    assert refused.parent.output().count("\n") == 1
    assert f"Port {port} on 127.0.0.1 is in use" in refused.parent.output()


def test_the_port_is_taken_before_anything_listens_on_it(starter: Starter) -> None:
    port = free_port()
    first = starter.start(port=port)
    eventually_blocking(first.holds_its_port, within=30)
    second = starter.start(port=port)
    assert second.parent.wait() == 2
    assert f"Port {port} on 127.0.0.1 is in use" in second.parent.output()
    starter.processes.wait_until(first.parent, lambda: len(first.events("api_ready")) == 2)


def test_port_0_is_one_free_port_for_both(starter: Starter) -> None:
    workers = starter.start("--port", "0")
    starter.processes.wait_until(workers.parent, lambda: len(workers.events("api_ready")) == 2)
    (url,) = {event["url"] for event in workers.events("api_ready")}
    assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    assert not url.endswith(":0")


def test_what_cannot_start_says_so_and_is_not_tried_for_ever(starter: Starter) -> None:
    wrong = starter.start(REQUEST_DEADLINE_SECONDS="soon")
    assert wrong.parent.wait() == 2
    assert wrong.parent.output().count("\n") == 1
    assert "REQUEST_DEADLINE_SECONDS" in wrong.parent.output()
    # Something that only the process itself finds out: the package for the documentation's page is not whole.
    packages = starter.temporary.parent / "packages"
    (packages / "flask_swagger_ui").mkdir(parents=True)
    (packages / "flask_swagger_ui" / "__init__.py").touch()
    lacking = starter.start(PYTHONPATH=f"{packages}:{ROOT / 'src'}")
    assert lacking.parent.wait() == 1
    assert lacking.parent.output().count("ENABLE_SWAGGER") == 1, lacking.parent.output()
    assert "api process 1 could not start" in lacking.parent.output()
    assert [line.startswith("wallet: ") for line in lacking.parent.output().splitlines()][-2:] == [True, True]
    assert lacking.has_left_nothing()


def test_up_passes_the_number_on(processes: Processes, tmp_path: Path) -> None:
    up = processes.start_up("--workers", "2", "--data", str(tmp_path / "data"), LOG_LEVEL="debug")
    workers = Workers(up, tmp_path)
    processes.wait_until(up, lambda: len(workers.events("api_ready")) == 2)
    assert sum("api-process" in process.cmdline() for process in family_of(up.pid)) == 2
    deposit_once(up.url)
    assert up.stop() == 0


def test_one_worker_is_one_process(processes: Processes, database_url: str) -> None:
    api = processes.start("api", "--workers", "1", settings={"DATABASE_URL": database_url})
    processes.wait_until(api, lambda: "api_ready" in api.logs())
    assert len(family_of(api.pid)) == 1
    assert "process_cpu_seconds_total" in api.metrics()
    assert api.stop() == 0
