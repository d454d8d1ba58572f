"""An upgrade without a stop: migrations first, while the previous version's programs go on, then one program after
the other."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.support.books import assert_books_are_right, assert_pipeline_is_quiet_and_right
from tests.support.client import open_client, random_load
from tests.support.previous_version import unpack_previous_version
from tests.support.processes import Processes, WalletProcess
from tests.support.verification import faults_of
from tests.support.waiting import eventually
from wallet.postgres import migrations
from wallet.postgres.migrations import migrate, read_migrations
from wallet.relay.seal import FILENAME

FINAL_STATUSES = {201, 400, 404}
ANSWERS = 150


@pytest.fixture
def previous_source(tmp_path: Path) -> str:
    """Where the previous version's packages are."""
    return str(unpack_previous_version(tmp_path / "previous"))


@pytest.mark.timeout(150)
async def test_an_upgrade_under_load_as_the_runbook_has_it_is_seen_by_no_client_and_can_be_taken_back(
    empty_database_url: str, previous_source: str, processes: Processes, seed: int
) -> None:
    present = {"DATABASE_URL": empty_database_url}
    # The previous version takes the documentation's files from a package that is not installed any more.
    previous = present | {"PYTHONPATH": previous_source, "ENABLE_SWAGGER": "false"}
    assert processes.start("migrate", settings=previous).wait() == 0
    old_apis = [processes.start_api(**previous) for _ in range(2)]
    old_pipeline = [processes.start_relay(**previous), processes.start_worker(**previous)]
    async with (
        open_client(*(api.url for api in old_apis)) as client,
        random_load(client, seed=seed, concurrency=20) as statuses,
    ):
        await client.more_answers(ANSWERS)
        migrating = processes.start("migrate", settings=present)
        assert await asyncio.to_thread(migrating.wait) == 0
        await client.more_answers(ANSWERS)

        # One api after the other; both versions serve at once, and the pipeline is still the previous one.
        new_api = await asyncio.to_thread(processes.start_api, **present)
        client.urls = [new_api.url, old_apis[1].url]
        await client.more_answers(ANSWERS)
        assert await asyncio.to_thread(old_apis[0].stop) == 0
        relay = await asyncio.to_thread(processes.start_relay, **present)
        await asyncio.to_thread(processes.start_worker, **present)
        for process in old_pipeline:
            assert await asyncio.to_thread(process.stop) == 0
        await client.more_answers(ANSWERS)

        # And back again: the programs go, the schema stays.
        assert await asyncio.to_thread(new_api.stop) == 0
        await client.more_answers(ANSWERS)
    assert set(statuses) <= FINAL_STATUSES
    assert {seen for seen in client.seen if isinstance(seen, int)} <= FINAL_STATUSES
    await assert_pipeline_is_quiet_and_right(empty_database_url)
    await assert_books_are_right(empty_database_url)
    assert relay.stop() == 0
    assert await faults_of(empty_database_url, relay.directory / "logs" / FILENAME) == {}


async def test_programs_on_an_older_schema_say_what_to_do_and_go_on_when_it_is_done(
    empty_database_url: str, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = read_migrations()
    with monkeypatch.context() as older:
        older.setattr(migrations, "read_migrations", lambda: known[:-1])
        assert len(await migrate(empty_database_url)) == len(known) - 1
    settings = {"DATABASE_URL": empty_database_url}
    api, *_ = [processes.start(command, settings=settings) for command in ("api", "relay", "worker")]
    processes.wait_until(api, lambda: "api_ready" in api.output())
    async with open_client(api.url) as client:
        answer = readyz(api)
        assert answer.status_code == 503
        assert f"missing: {known[-1].full_name}; run `wallet migrate`" in answer.text

        migrating = processes.start("migrate", settings=settings)
        assert await asyncio.to_thread(migrating.wait) == 0
        assert migrating.output() == f"applied {known[-1].full_name}\n"
        await client.deposit("alice", 5, "r1")
        await eventually(lambda: readyz(api).status_code == 200)
        await assert_pipeline_is_quiet_and_right(empty_database_url)
    assert [process.exit_code for process in processes.started] == [None, None, None, 0]


def readyz(api: WalletProcess) -> httpx.Response:
    return httpx.get(f"{api.url}/readyz", trust_env=False)
