"""The machine and the versions with which the figures were measured; the figures depend on them."""

import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.ground import Ground, query

ROOT: Final = Path(__file__).parents[1]
STATED: Final = """
server_version fsync synchronous_commit full_page_writes wal_sync_method shared_buffers max_wal_size
checkpoint_timeout wal_compression wal_level autovacuum max_connections data_checksums
"""


def describe_machine() -> dict[str, Any]:
    """Returns the properties of the machine, and the commit of the code under test."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": _output("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "uncommitted_changes": bool(
            _output("git", "-C", str(ROOT), "status", "--porcelain", "--", "src", "benchmarks")
        ),
        "wrk": (_output("wrk", "-v") or "").partition(" Copyright")[0],
    }


def describe_servers(ground: Ground) -> dict[str, Any]:
    """Returns PostgreSQL's settings as the server reports them, and the version of RabbitMQ."""
    settings = {name: query(ground.postgres.url("postgres"), f"show {name}")[0][0] for name in STATED.split()}
    return {"postgres": settings, "rabbitmq": ground.rabbitmq.ctl("version")}


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return found[1] if found else platform.processor()


def _output(*command: str) -> str | None:
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return None
    return finished.stdout.strip() or None
