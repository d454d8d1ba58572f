"""Stopping a process of the wallet for a while, and letting it go on."""

import asyncio
import random

import httpx
import psutil
import pytest

from tests.support.process_faults import suspend
from tests.support.processes import Processes
from tests.support.sessions import family_of
from tests.support.waiting import eventually


async def test_a_suspended_process_answers_nothing_and_goes_on_where_it_was(
    database_url: str, processes: Processes
) -> None:
    api = await asyncio.to_thread(processes.start_api, DATABASE_URL=database_url)
    async with httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=10) as client:
        async with suspend(api) as stopped:
            assert (stopped.pid, stopped.status()) == (api.pid, psutil.STATUS_STOPPED)
            asking = asyncio.create_task(client.get("/readyz"))
            done, _ = await asyncio.wait([asking], timeout=0.3)
            assert not done
        assert (await asking).status_code == httpx.codes.OK
    assert stopped.status() != psutil.STATUS_STOPPED
    assert api.exit_code is None


async def test_of_a_family_the_seed_picks_one(database_url: str, processes: Processes, seed: int) -> None:
    settings = {"DATABASE_URL": database_url}
    api = await asyncio.to_thread(processes.start, "api", "--workers", "2", settings=settings)
    await eventually(lambda: api.output().count('"api_ready"') == 2, within=30)
    async with suspend(api, random.Random(seed)) as first:
        assert first in family_of(api.pid)
    async with suspend(api, random.Random(seed)) as again:
        assert again == first


async def test_a_process_killed_while_it_is_suspended_is_left_alone(database_url: str, processes: Processes) -> None:
    api = await asyncio.to_thread(processes.start_api, DATABASE_URL=database_url)
    async with suspend(api) as stopped:
        api.kill()
    assert not stopped.is_running()


async def test_an_error_meanwhile_lets_it_go_on(database_url: str, processes: Processes) -> None:
    api = await asyncio.to_thread(processes.start_api, DATABASE_URL=database_url)
    with pytest.raises(ZeroDivisionError):
        async with suspend(api):
            raise ZeroDivisionError
    await eventually(lambda: psutil.Process(api.pid).status() != psutil.STATUS_STOPPED)
