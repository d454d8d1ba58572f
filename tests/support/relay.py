"""A running relay for a test, and reads of the journal."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from pydantic import SecretStr

from tests.support.database import connected
from wallet.postgres.connections import Connection
from wallet.relay.relay import run_relay
from wallet.relay.seal import FILENAME, export_head
from wallet.runtime.metrics import Metrics
from wallet.runtime.settings import Settings
from wallet.wire.digest import chain_of

STOP_SECONDS_MAX = 15.0
GENESIS = bytes(32)


def relay_settings(database_url: str, rabbitmq_url: str | None, log_dir: Path) -> Settings:
    """Returns the settings of a relay; without a broker it seals for workers that read the journal."""
    return Settings(
        database_url=SecretStr(database_url),
        rabbitmq_url=None if rabbitmq_url is None else SecretStr(rabbitmq_url),
        log_dir=log_dir,
    )


@asynccontextmanager
async def running_relay(settings: Settings) -> AsyncIterator["asyncio.Task[None]"]:
    """Yields a running relay, and stops it at the end; a test may cancel it before, to simulate a crash."""
    stop = asyncio.Event()
    running = asyncio.create_task(run_relay(settings, Metrics("relay"), stop))
    try:
        yield running
    finally:
        stop.set()
        async with asyncio.timeout(STOP_SECONDS_MAX):
            await asyncio.wait({running})
    if not running.cancelled():
        running.result()


async def export_journal_head(database_url: str, log_dir: Path) -> Path:
    """Append the head of the journal to the relay's file. Returns the file."""
    async with connected(database_url) as connection:
        await export_head(connection, log_dir)
    return log_dir / FILENAME


async def sealed_rows(connection: Connection) -> Sequence[asyncpg.Record]:
    """Returns the sealed journal rows in order of position."""
    return await connection.fetch(
        "select batch_id, seq, event_count, digest, position, chain, sealed_at, published_at"
        " from journal where position is not null order by position"
    )


async def count_where(connection: Connection, condition: str) -> int:
    """Returns how many journal rows meet a condition."""
    count = await connection.fetchval(f"select count(*) from journal where {condition}")
    assert isinstance(count, int)
    return count


async def assert_journal_is_chained(connection: Connection) -> None:
    """Assert that positions are 1..n without gaps, each chained to the one before, and the head is the last."""
    rows = await sealed_rows(connection)
    assert [row["position"] for row in rows] == list(range(1, len(rows) + 1))
    chain = GENESIS
    for row in rows:
        chain = chain_of(chain, row["position"], row["digest"])
        assert row["chain"] == chain, f"position {row['position']}"
    head = await connection.fetchrow("select position, chain from journal_head")
    assert head is not None
    assert (head["position"], head["chain"]) == (len(rows), chain)
