"""Sealing: committed batches get the next positions in the journal, without gaps, each chained to the previous one.

No batch is skipped: a batch that commits late is still unsealed when it becomes visible, and gets its position then.
Sealing reads all unsealed batches and does not continue from a last seq. The order is safe: if a batch read the effect
of another batch, or was sent after the answer of the other, it drew the higher seq, and the other batch is visible
whenever this one is.

Each round is one transaction: lock the head (and compare the token) → read → write the rows → move the head. After a
crash, either all of it is stored or nothing.

The head of the journal is also exported to a file outside the database: each line has a position, its chain and the
time. To rewrite the journal or cut off its tail without being detected, an attacker must also change these lines in
every copy of the file.
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

# Bounds how long a round keeps the lock of the head, because marking waits for that lock.
BATCHES_MAX: Final = 1_000

_SQL: Final = load_statements("wallet.relay", "relay.sql")
EXPORT_SECONDS: Final = 60.0
FILENAME: Final = "journal-heads.log"


async def seal_batches(connection: Connection, lease: Lease, *, is_published: bool) -> int:
    """Seal the visible batches, at most BATCHES_MAX. Returns how many were sealed. Raises LeaseLost.

    `is_published` means that there is no broker, so a batch counts as published when it is sealed.
    """
    # Check without a lock first. A row lock is a write, so otherwise each round of an idle relay would write.
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
    """Append the current head as `position chain time`, and sync the file to disk. Raises OSError if this fails."""
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
    """Open the file with the same mode as the log files in the same directory."""
    return os.open(path, flags, 0o640)
