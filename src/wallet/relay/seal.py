"""Sealing: committed batches get the next positions in the journal, without gaps, each chained to the one before.

Why no batch is skipped: a batch that commits late is still unsealed when it becomes visible, and gets its position
then; nothing remembers a last seq. Why the order is safe: a batch that saw another's effect, or was sent after
its answer, drew the higher seq and finds the other one visible.

One transaction a round: lock the head (and compare the token) → read → write the rows → move the head. A crash
leaves all of it or nothing.

The head of the journal is also exported: position, chain and time, a line each, to a file outside the database. Whoever
rewrites the journal, or cuts off its tail, must also change these lines, wherever they have been copied.
"""

import asyncio
import os
from datetime import datetime
from pathlib import Path
from typing import Final

from wallet.postgres.connections import Connection
from wallet.postgres.lease import Lease
from wallet.postgres.statements import load_statements
from wallet.relay.lease import Head, lock_head
from wallet.wire.digest import chain_of

# Bounds how long a round holds the head's lock, for which marking waits.
BATCHES_MAX: Final = 1_000

_SQL: Final = load_statements("wallet.relay", "relay.sql")
EXPORT_SECONDS: Final = 60.0
FILENAME: Final = "journal-heads.log"


async def seal_batches(connection: Connection, lease: Lease, *, is_published: bool) -> int:
    """Seal what is visible, at most BATCHES_MAX, and return how many; raises LeaseLost.

    `is_published`: there is no broker, so that a sealed batch is a published one.
    """
    # An idle relay asks without taking a lock: a lock is a write, and so would be each idle round.
    if not await connection.fetchval(_SQL.has_unsealed):
        return 0
    async with connection.transaction():
        head = await lock_head(connection, lease)
        rows = await connection.fetch(_SQL.select_unsealed, BATCHES_MAX)
        if not rows:
            return 0
        chains: list[bytes] = []
        positions = range(head.position + 1, head.position + len(rows) + 1)
        for position, row in zip(positions, rows, strict=True):
            chains.append(chain_of(chains[-1] if chains else head.chain, position, row["digest"]))
        batch_ids, now = [row["batch_id"] for row in rows], rows[0]["now"]
        sealed = await connection.execute(
            _SQL.seal_batches, batch_ids, list(positions), chains, now, now if is_published else None
        )
        assert sealed.removeprefix("UPDATE ") == str(len(rows)), f"{sealed} of {len(rows)}: someone else seals"
        moved = await connection.execute(_SQL.move_head, positions[-1], chains[-1], lease.token)
        assert moved == "UPDATE 1", "the head moved while it was locked"
    return len(rows)


async def export_head(connection: Connection, log_dir: Path) -> Head:
    """Append the current head as `position chain time` and have it on disk; raises OSError if it can't be."""
    row = await connection.fetchrow(_SQL.read_head)
    assert row is not None, "journal_head has lost its row"
    head = Head(row["position"], row["chain"])
    await asyncio.to_thread(_append, log_dir, _line(head, row["now"]))
    return head


def _line(head: Head, now: datetime) -> str:
    time = now.replace(tzinfo=None).isoformat(timespec="microseconds")
    return f"{head.position} {head.chain.hex()} {time}Z\n"


def _append(log_dir: Path, line: str) -> None:
    log_dir.mkdir(parents=True, exist_ok=True)
    path = log_dir / FILENAME
    with open(path, "a", encoding="ascii", opener=_readable_by_group) as heads:
        heads.write(line)
        heads.flush()
        os.fsync(heads.fileno())


def _readable_by_group(path: str, flags: int) -> int:
    """As the log files beside it."""
    return os.open(path, flags, 0o640)
