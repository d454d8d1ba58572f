"""Loads a log quickly: the domain decides the batches, the ledger's code builds the rows, and COPY writes them.

The rows are those that the service would have written: `wallet verify` accepts them, including chain and digests. Two
processes write the rows, each those of every second wallet. This process then writes and seals the journal, because
its chain is one sequence.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg

from benchmarks.verdicts import InvalidRun
from tests.support.reaper import Reaper
from wallet.wire.digest import chain_of

ROOT: Final = Path(__file__).parents[1]
PROCESSES: Final = 2
LOAD_SECONDS_MAX: Final = 900

# What the worker would have stored for the published part of the log, which contains only deposits.
ENTER_PROCESSED: Final = """
insert into processed_events (bucket, event_id, status, processed_at)
select e.bucket, e.event_id, 'success', now()
from events e
join journal j on j.batch_id = e.batch_id
where j.published_at is not null
on conflict do nothing
"""
ENTER_STATS: Final = """
insert into wallet_stats (bucket, wallet_id, total_deposited, last_activity_at)
select e.bucket, e.wallet_id, sum(e.amount), max(e.occurred_at)
from events e
join journal j on j.batch_id = e.batch_id
where j.published_at is not null
group by e.bucket, e.wallet_id
on conflict do nothing
"""
MOVE_HEAD: Final = "update journal_head set position = $1, chain = $2"


@dataclass(frozen=True, slots=True)
class Books:
    """The content to load: deposits that are sealed, published and processed, then waiting events of all types."""

    wallet_count: int
    deposits_per_wallet: int
    waiting_events: int = 0
    prefix: str = "w"


@dataclass(frozen=True, slots=True)
class Batch:
    """The data for the journal row of a batch whose other rows are written."""

    batch_id: UUID
    event_count: int
    digest: bytes
    at: datetime
    is_sealed: bool


def load(database_url: str, books: Books, *, reaper: Reaper) -> None:
    """Loads the books into a migrated database. Raises InvalidRun."""
    batches = sorted(_make_rows(database_url, books, reaper), key=lambda batch: batch.at)
    asyncio.run(_write_journal(database_url, batches))


def _make_rows(database_url: str, books: Books, reaper: Reaper) -> Iterator[Batch]:
    started_at = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    with ExitStack() as stack:
        makers = []
        for part in range(PROCESSES):
            order = asdict(books) | {"url": database_url, "part": part, "parts": PROCESSES, "started_at": started_at}
            maker = _start_maker(json.dumps(order))
            stack.callback(_end_maker, maker, reaper)
            reaper.watch_group(maker.pid)
            makers.append(maker)
        for maker in makers:
            said, _ = maker.communicate(timeout=LOAD_SECONDS_MAX)
            if maker.returncode != 0:
                raise InvalidRun("loading failed; the reason is in the output above")
            for batch_id, event_count, digest, at, is_sealed in json.loads(said):
                yield Batch(UUID(batch_id), event_count, bytes.fromhex(digest), datetime.fromisoformat(at), is_sealed)


def _start_maker(order: str) -> "subprocess.Popen[str]":
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "benchmarks.making_rows", order],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _end_maker(maker: "subprocess.Popen[str]", reaper: Reaper) -> None:
    maker.kill()
    maker.wait()
    reaper.forget_group(maker.pid)


async def _write_journal(database_url: str, batches: Sequence[Batch]) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await _seal(connection, [batch for batch in batches if batch.is_sealed])
            await connection.copy_records_to_table(
                "journal",
                columns=["batch_id", "event_count", "digest"],
                records=[(batch.batch_id, batch.event_count, batch.digest) for batch in batches if not batch.is_sealed],
            )
        await connection.execute("analyze")
        async with connection.transaction():
            await connection.execute(ENTER_PROCESSED)
            await connection.execute(ENTER_STATS)
        await connection.execute("vacuum analyze")
        await connection.execute("checkpoint")
    finally:
        await connection.close()


async def _seal(connection: "asyncpg.Connection[asyncpg.Record]", batches: Sequence[Batch]) -> None:
    """Seals the batches after those that are already sealed."""
    head = await connection.fetchrow("select position, chain from journal_head")
    assert head is not None
    position, chain = head["position"], head["chain"]
    records: list[tuple[Any, ...]] = []
    now = datetime.now(UTC)
    # This is how a relay with a broker marks them, so that a worker with a broker skips them.
    confirmed_at = now + timedelta(microseconds=1)
    for batch in batches:
        position += 1
        chain = chain_of(chain, position, batch.digest)
        records.append((batch.batch_id, batch.event_count, batch.digest, position, chain, now, confirmed_at))
    columns = ["batch_id", "event_count", "digest", "position", "chain", "sealed_at", "published_at"]
    await connection.copy_records_to_table("journal", columns=columns, records=records)
    await connection.execute(MOVE_HEAD, position, chain)
