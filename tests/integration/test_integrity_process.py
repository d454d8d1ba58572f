"""The integrity monitor in a worker: it checks, reports, stops with the worker, and starts again after a reset."""

import asyncio
from typing import Any

import httpx

from tests.support.client import deposit_once
from tests.support.database import connected, fetch_value
from tests.support.processes import Processes, WalletProcess
from tests.support.verification import as_owner
from tests.support.waiting import eventually

SOON = 30.0


def integrity_of(api: WalletProcess) -> dict[str, Any]:
    answer = httpx.get(f"{api.url}/integrity", trust_env=False, timeout=5)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def test_a_worker_checks_reports_and_releases_the_lease_at_its_stop(books_url: str, processes: Processes) -> None:
    settings = {"DATABASE_URL": books_url, "RABBITMQ_URL": "", "LOG_LEVEL": "debug"}
    api = await asyncio.to_thread(lambda: processes.start_api(**settings))
    await asyncio.to_thread(lambda: processes.start_relay(**settings))
    worker = await asyncio.to_thread(lambda: processes.start_worker(**settings))

    async def has_status(status: str) -> dict[str, Any]:
        found = await asyncio.to_thread(integrity_of, api)
        assert found["status"] == status, found["summary"]
        return found

    clean = await eventually(lambda: has_status("clean"), within=SOON, every=0.3)
    assert clean["incremental"]["ageSeconds"] < 10
    await asyncio.to_thread(deposit_once, api.url)
    async with as_owner(books_url) as connection:
        await connection.execute("update wallets set balance = balance + 5 where wallet_id = 'alice'")
    # The next incremental check finds it; or the next full check, which begins every half minute, if the worker had
    # already checked the deposit.
    broken = await eventually(lambda: has_status("broken"), within=60, every=0.3)
    assert "wallet alice" in {fault["row"] for fault in broken["faults"]}
    assert await asyncio.to_thread(worker.stop, within=6) == 0
    assert await fetch_value(books_url, "select holder from auditor") is None
    assert "integrity_fault" in worker.logs()


async def test_a_state_that_was_reset_by_hand_is_recreated(books_url: str, processes: Processes) -> None:
    settings = {"DATABASE_URL": books_url, "RABBITMQ_URL": "", "LOG_LEVEL": "debug"}
    await asyncio.to_thread(lambda: processes.start_worker(**settings))
    async with connected(books_url) as connection:

        async def has_checked() -> bool:
            return bool(await connection.fetchval("select state -> 'looked' ->> 'taken_at' from auditor"))

        await eventually(has_checked, within=SOON)
        reset = "update auditor set state = '{}', token = token + 1, lease_until = '-infinity' returning token"
        token = await connection.fetchval(reset)

        async def is_taken_again() -> bool:
            row = await connection.fetchrow("select token, holder from auditor")
            assert row is not None
            return bool(row["token"] > token and row["holder"])

        await eventually(is_taken_again, within=SOON)
        await eventually(has_checked, within=SOON)
