"""A failover to a streaming standby: what an asynchronous one loses, and that a synchronous one loses nothing."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.books import assert_books_are_right, assert_pipeline_is_quiet_and_right
from tests.support.client import Client, Reply, open_client, random_load
from tests.support.postgres import PostgresServer
from tests.support.processes import Processes, WalletProcess
from tests.support.reaper import Reaper
from tests.support.relay import export_journal_head
from tests.support.standby import Standby
from tests.support.verification import faults_of
from tests.support.waiting import eventually
from wallet.integrity.findings import Check
from wallet.relay.seal import FILENAME

FINAL_STATUSES = {201, 400, 404}
KEPT, LOST = "kept", "lost"


@pytest.fixture
def standby(reaper: Reaper, own_postgres_server: PostgresServer) -> Iterator[Standby]:
    """A standby that follows the test's own server, where a migrated database is already."""
    own_postgres_server.create_database()
    with Standby(reaper, own_postgres_server) as server:
        yield server


@pytest.fixture
def both_urls(own_postgres_server: PostgresServer, standby: Standby) -> str:
    """One address that names both servers, the present standby first."""
    primary_url, standby_url = own_postgres_server.url("wallet_1"), standby.url("wallet_1")
    login, _, place = standby_url.partition("@")
    other_place = primary_url.partition("@")[2].partition("/")[0]
    return f"{login}@{place.replace('/', f',{other_place}/')}"


async def export_heads(url: str, directory: Path) -> Path:
    """Wait until everything took effect, and append the head to the relay's file."""
    await assert_pipeline_is_quiet_and_right(url)
    return await export_journal_head(url, directory)


def is_ready(api: WalletProcess) -> bool:
    return httpx.get(f"{api.url}/readyz", trust_env=False, timeout=10).status_code == 200


async def test_an_asynchronous_standby_can_lose_what_was_answered_and_verify_names_where(
    own_postgres_server: PostgresServer, standby: Standby, both_urls: str, processes: Processes, tmp_path: Path
) -> None:
    api, *_ = started = [start(DATABASE_URL=both_urls) for start in (processes.start_api, processes.start_relay)]
    started.append(processes.start_worker(DATABASE_URL=both_urls))
    primary_url, promoted_url = own_postgres_server.url("wallet_1"), standby.url("wallet_1")
    async with open_client(api.url) as client:
        await client.deposit("alice", 10, KEPT)
        heads = await export_heads(primary_url, tmp_path)
        kept = len(heads.read_text())
        await eventually(standby.has_all)
        with standby.is_cut_off():
            answered = await client.deposit("alice", 5, LOST)
            await client.deposit("bob", 1, "lost-too")
            await export_heads(primary_url, tmp_path)
            standby.promote()
            own_postgres_server.kill()
        await eventually(lambda: is_ready(api), within=20)

        # What was answered is gone, nothing else is wrong, and only the heads know.
        assert (await client.get("/wallet/alice"))["balance"] == "10.0000"
        assert await faults_of(promoted_url) == {}
        assert "the journal ends at 1, its tail was cut off" in await what_the_heads_say(promoted_url, heads)

        # A client that asks again with its key has its effect again; history goes another way from there.
        again = await client.deposit("alice", 5, LOST)
        assert ("Idempotency-Replayed" in again.headers, again.json()) == (False, answered.json())
        assert (await client.deposit("bob", 1, "recreated")).json()["created"]
        await assert_pipeline_is_quiet_and_right(promoted_url)
    assert await faults_of(promoted_url) == {}
    assert "history was rewritten at positions 2 to 3" in await what_the_heads_say(promoted_url, heads)
    heads.write_text(heads.read_text()[:kept])
    assert await faults_of(promoted_url, heads) == {}
    assert [process.exit_code for process in started] == [None] * 3


async def what_the_heads_say(url: str, heads: Path) -> str:
    """What the one fault is that the heads find."""
    faults = await faults_of(url, heads)
    assert faults.keys() == {Check.HEADS}
    first = faults[Check.HEADS].first
    assert first is not None
    return first.found


async def test_a_synchronous_standby_loses_nothing_that_was_answered_and_nobody_restarts_anything(
    own_postgres_server: PostgresServer, standby: Standby, both_urls: str, processes: Processes, seed: int
) -> None:
    standby.be_waited_for()
    apis = [processes.start_api(DATABASE_URL=both_urls) for _ in range(2)]
    relay = processes.start_relay(DATABASE_URL=both_urls)
    worker = processes.start_worker(DATABASE_URL=both_urls)
    async with open_client(*(api.url for api in apis)) as client:
        answered: list[tuple[str, Reply]] = []
        async with random_load(client, seed=seed, concurrency=30) as statuses:
            noting = asyncio.create_task(note_answers(client, answered))
            await client.more_answers(300)
            own_postgres_server.kill()
            standby.promote()
            await client.more_answers(300)
            assert noting.cancel(), "it ended by itself"
        assert set(statuses) <= FINAL_STATUSES
        assert len(answered) > 10
        for key, reply in random.Random(seed).sample(answered, 10) + answered[-10:]:
            replay = await client.deposit("alice", 1, key)
            assert (replay.body, replay.headers.get("Idempotency-Replayed")) == (reply.body, "true")
    url = standby.url("wallet_1")
    await assert_pipeline_is_quiet_and_right(url)
    await assert_books_are_right(url)
    assert [process.exit_code for process in (*apis, relay, worker)] == [None] * 4
    assert relay.stop() == 0
    assert await faults_of(url, relay.directory / "logs" / FILENAME) == {}


async def note_answers(client: Client, answered: list[tuple[str, Reply]]) -> None:
    """One deposit after the other, each noted when it is answered."""
    while True:
        key = f"noted-{len(answered)}"
        answered.append((key, await client.deposit("alice", 1, key)))


async def test_nothing_is_answered_that_the_synchronous_standby_does_not_have(
    own_postgres_server: PostgresServer, standby: Standby, processes: Processes
) -> None:
    standby.be_waited_for()
    api = processes.start_api(DATABASE_URL=own_postgres_server.url("wallet_1"), REQUEST_DEADLINE_SECONDS="8")
    async with open_client(api.url) as client:
        await client.deposit("alice", 10, KEPT)
        standby.stop()
        body = {"amount": 5, "requestId": "waits"}
        reply = await client.post_once("/wallet/alice/deposit", body, url=api.url)
        assert (reply.status, reply.json()["code"]) == (503, "outcome_unknown")
        standby.start()
        await client.deposit("alice", 5, "waits")
        assert (await client.get("/wallet/alice"))["balance"] == "15.0000"


def test_an_api_whose_only_database_is_a_standby_is_not_ready(standby: Standby, processes: Processes) -> None:
    api = processes.start("api", settings={"DATABASE_URL": standby.url("wallet_1")})
    processes.wait_until(api, lambda: "api_ready" in api.output())
    assert not is_ready(api)
