"""Keeps a process away from a server that was replaced: an old primary that runs on after a failover.

A promotion starts a new timeline of the same database cluster, with a higher number. A process remembers the highest
timeline that it has seen of each cluster, refuses connections to a server with a lower one, and ends those that it
still has. Without this, two primaries at the same time would each take some of its writes.

The memory is the process's own: a process that has just started, and reaches only the old primary, cannot know.
"""

from typing import Final
from weakref import WeakSet

import asyncpg
import structlog

_READ: Final = """
select s.system_identifier,
    ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint as timeline
from pg_control_system() as s
"""
_UNAVAILABLE: Final = (
    asyncpg.FeatureNotSupportedError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedFunctionError,
)

_log = structlog.get_logger()


class StaleServer(ConnectionError):
    """The server's timeline is older than one that this process has seen: another server has replaced it."""


class _Cluster:
    """What a process has seen of one database cluster: its highest timeline, and the connections that are on it."""

    def __init__(self) -> None:
        self.timeline = 0
        self.connections: WeakSet[asyncpg.Connection[asyncpg.Record]] = WeakSet()


_clusters: Final[dict[tuple[str, int], _Cluster]] = {}


async def admit(connection: "asyncpg.Connection[asyncpg.Record]", address: str) -> None:
    """Accept a connection to a server that takes writes; `address` is what the process was given, all hosts of it.

    Raises StaleServer for an old primary, and what the query raises. A service that only behaves like PostgreSQL may
    not report its timeline: it is accepted, and a warning is logged.
    """
    try:
        row = await connection.fetchrow(_READ)
    except _UNAVAILABLE as error:
        _log.warning("timeline_unknown", reason=str(error))
        return
    assert row is not None
    cluster = _clusters.setdefault((address, row["system_identifier"]), _Cluster())
    timeline = row["timeline"]
    if timeline < cluster.timeline:
        raise StaleServer(
            f"The server is on timeline {timeline}, but this process has seen timeline {cluster.timeline} of the same "
            "cluster: a standby was promoted in its place. Stop the old primary, or restart it as a standby."
        )
    if timeline > cluster.timeline:
        _leave_older(cluster, timeline)
    cluster.connections.add(connection)


def _leave_older(cluster: _Cluster, timeline: int) -> None:
    older = list(cluster.connections)
    if cluster.timeline:
        _log.warning("timeline_changed", before=cluster.timeline, now=timeline, connections_ended=len(older))
    cluster.timeline = timeline
    cluster.connections.clear()
    for connection in older:
        connection.terminate()
