"""Bulk requests of one client that names the wallets of many others: these others go on."""

import asyncio
import json
import time
from collections import Counter

import pytest

from tests.support.api import RunningApi, running_api
from tests.support.database import fetch_value
from tests.support.raw_http import RawAnswer
from tests.support.waiting import eventually
from wallet.api.edge.incoming import BodyLimits
from wallet.api.edge.server import ServerLimits

pytestmark = pytest.mark.alone

HOSTILE = "X-Forwarded-For: 203.0.113.66"
HONEST = "X-Forwarded-For: 198.51.100.7"
OTHER = "X-Forwarded-For: 198.51.100.8"
WALLETS = 1000
FLOOD = 60
FUNDS = 1000
OWN = 10
CONNECTIONS = 4
ALONE_SECONDS = 1.0
DEADLINE_SECONDS = 5.0
SLOW_SECONDS = 2.0
"""Far more than a bulk request of 1,000 transfers takes, far less than the deadline, which the flood lasts for."""
TOTAL = "select sum(balance) from wallets"
UNDER_WAY = "select count(*) from api_audit where client_ip = '203.0.113.66'"


async def test_a_flood_of_bulk_requests_on_the_wallets_of_others_slows_none_of_them(database_url: str) -> None:
    """They wait for a bulk request that runs on their wallet, but for none that waits."""
    async with running_api(
        database_url,
        body_limits=BodyLimits(),
        server_limits=ServerLimits(),
        trusted_proxies="127.0.0.1",
        request_deadline_seconds=DEADLINE_SECONDS,
    ) as api:
        await create_wallets(api)
        alone = await deposit_for(api, seconds=ALONE_SECONDS)
        flood = [asyncio.create_task(api.post("/operations", dust(number), HOSTILE)) for number in range(FLOOD)]
        await eventually(lambda: fetch_value(database_url, UNDER_WAY))
        beside, others_bulk = await asyncio.gather(deposit_for(api, seconds=DEADLINE_SECONDS / 2), bulk_elsewhere(api))
        answers = await asyncio.gather(*flood)
    report = f"alone {summary(alone)}; beside the flood {summary(beside)}; another client's bulk {others_bulk:.2f} s"
    assert max(beside) < SLOW_SECONDS, report
    assert others_bulk < SLOW_SECONDS, report
    assert len(beside) / sum(beside) > len(alone) / sum(alone) / 4, report
    statuses = Counter(answer.status for answer in answers)
    assert statuses[200], statuses
    assert all(answer.status == 200 or is_late(answer) for answer in answers), statuses
    assert await fetch_value(database_url, TOTAL) == WALLETS + FUNDS + len(alone) + len(beside) + OWN


async def create_wallets(api: RunningApi) -> None:
    operations = [
        {"type": "deposit", "walletId": f"w{number}", "amount": "1", "requestId": "first"} for number in range(WALLETS)
    ]
    answer = await api.post("/operations", json.dumps({"mode": "independent", "operations": operations}), OTHER)
    assert answer.status == 200
    funds = {"amount": FUNDS, "requestId": "funds"}
    assert (await api.post("/wallet/hub/deposit", json.dumps(funds), HOSTILE)).status == 201


def dust(number: int) -> str:
    """A bulk request that sends a little to everybody."""
    operations = [
        {
            "type": "transfer",
            "walletId": "hub",
            "toWalletId": f"w{index}",
            "amount": "0.0001",
            "requestId": f"{number}-{index}",
        }
        for index in range(WALLETS)
    ]
    return json.dumps({"mode": "independent", "operations": operations})


async def deposit_for(api: RunningApi, *, seconds: float) -> list[float]:
    """Deposits into these wallets, from a few connections, for a while: how long each one took."""
    took: list[float] = []
    end = time.monotonic() + seconds

    async def deposit_one_after_the_other(first: int) -> None:
        number = first
        while time.monotonic() < end:
            began = time.monotonic()
            answer = await api.post(f"/wallet/w{number * 37 % WALLETS}/deposit", '{"amount": 1}', HONEST)
            assert answer.status == 201, answer
            took.append(time.monotonic() - began)
            number += CONNECTIONS

    await asyncio.gather(*(deposit_one_after_the_other(number) for number in range(CONNECTIONS)))
    return took


async def bulk_elsewhere(api: RunningApi) -> float:
    """Send a bulk request of another client, on other wallets. Returns how long it took."""
    operations = [
        {"type": "deposit", "walletId": f"own-{index}", "amount": "1", "requestId": "1"} for index in range(OWN)
    ]
    began = time.monotonic()
    answer = await api.post("/operations", json.dumps({"mode": "independent", "operations": operations}), OTHER)
    assert answer.status == 200
    return time.monotonic() - began


def is_late(answer: RawAnswer) -> bool:
    """The flood is not refused for being one: a request waits until its deadline, unless its body took too long."""
    return answer.status == 408 or (answer.code == "not_executed" and "deadline" in answer.json["detail"])


def summary(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"{len(ordered)} deposits, median {ordered[len(ordered) // 2] * 1e3:.0f} ms, slowest {ordered[-1]:.2f} s"
