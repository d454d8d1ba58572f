"""Reads that wait for the database delay neither readiness nor the audit trail rows of refused requests."""

import asyncio

import httpx

from tests.support.database import connected, fetch_value
from tests.support.processes import Processes
from tests.support.waiting import eventually

READS_WAITING = 64
CONNECTIONS = 8
WAITING = """
select count(*) from pg_stat_activity
where datname = current_database() and wait_event_type = 'Lock' and query like '%wallet_stats%'
"""
ANSWER_SECONDS_MAX = 1.0


async def test_blocked_reads_delay_neither_readiness_nor_the_audit_trail(
    database_url: str, processes: Processes
) -> None:
    api = processes.start_api(DATABASE_URL=database_url)
    limits = httpx.Limits(max_connections=READS_WAITING + 2)
    async with (
        connected(database_url) as blocker,
        httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=60, limits=limits) as client,
    ):
        # Connections exist before the reads take all that they may have.
        assert (await client.post("/wallet/alice/deposit", json={"amount": "-1"})).status_code == 400
        async with blocker.transaction():
            await blocker.execute("lock table wallet_stats in access exclusive mode")
            reads = [asyncio.create_task(client.get(f"/wallet/wallet-{n}/stats")) for n in range(READS_WAITING)]

            async def reads_wait() -> bool:
                waiting = await fetch_value(database_url, WAITING)
                return bool(waiting == CONNECTIONS)

            await eventually(reads_wait)
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                assert (await client.get("/readyz")).status_code == 200
            assert (await client.post("/wallet/bob/deposit", json={"amount": "-1"})).status_code == 400
            assert not any(read.done() for read in reads)

            async def row_is_there() -> bool:
                row = await fetch_value(database_url, "select 1 from api_audit where wallet_id = 'bob'")
                return row is not None

            await eventually(row_is_there, within=ANSWER_SECONDS_MAX)
        await asyncio.gather(*reads)
