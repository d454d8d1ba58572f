"""The journal's heads, exported: position, chain and time, one line each, in a file outside the database.

Whoever rewrites the journal, or cuts off its tail, must also change these lines, wherever they have been copied.
"""

import asyncio
import os
from datetime import datetime
from pathlib import Path
from typing import Final

from wallet.postgres.connections import Connection
from wallet.postgres.statements import load_statements
from wallet.relay.lease import Head

EXPORT_SECONDS: Final = 60.0
FILENAME: Final = "journal-heads.log"

_SQL: Final = load_statements("wallet.relay", "relay.sql")


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
