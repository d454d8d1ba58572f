"""Connections and pools. Every wait has a time limit that is shorter than a request's deadline.

An address may name several hosts, `postgresql://user:password@a:5432,b:5432/wallet`. Every connection goes to the host
that takes writes, so that after a failover the new primary is found without a restart. An old primary that still takes
writes is refused.

A promotion starts a new timeline of the same database cluster, with a higher number. A process remembers the highest
timeline that it has seen of each cluster. It refuses connections to a server with a lower timeline, and ends the ones
that it still has. Without this check, two primaries at the same time would each receive some of its writes.

The timeline is kept in memory only, so a process that has just started and can reach only the old primary accepts it.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from weakref import WeakSet

import asyncpg
import structlog
from asyncpg.connect_utils import SessionAttribute

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
CONNECT_SECONDS: Final = 3.0
# How long to wait for a host before the next one is tried as well. A dead machine does not refuse a connection.
HEAD_START_SECONDS: Final = 0.25
STATEMENT_SECONDS: Final = 5.0
# The client's limit is longer than the server's, so that the server's own error is received if the network works.
COMMAND_SECONDS: Final = STATEMENT_SECONDS + 1.0
LOCK_MS: Final = 500
# Below a request's deadline, so that a request that waits for the locks of a frozen process is still answered. The
# other limits do not apply to a process that froze while it sent a statement: the server waits for the rest of the
# statement, and counts the session neither as idle nor as busy.
_LIMIT_TRANSACTIONS: Final = "set transaction_timeout = '8s'"
TRANSACTION_LIMIT_SINCE: Final = 17
ROWS_BY_KEY: Final = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
}
"""Settings for sessions that read and change rows only by their keys. They force index scans, whatever the statistics.

Without them, a table that was small or empty when a statement was planned is read completely for each batch, with more
rows each time, until the table is analyzed (docs/performance.md).
"""


class StaleServer(ConnectionError):
    """The server's timeline is older than one that this process has seen: another server has replaced it."""


class _Cluster:
    """The highest timeline of one database cluster that this process has seen, and the connections on it."""

    def __init__(self) -> None:
        self.timeline = 0
        self.connections: WeakSet[asyncpg.Connection[asyncpg.Record]] = WeakSet()


_clusters: Final[dict[tuple[str, int], _Cluster]] = {}


async def admit(connection: "asyncpg.Connection[asyncpg.Record]", address: str) -> None:
    """Accept a connection to a server that takes writes. `address` is the configured address with all its hosts.

    Raises StaleServer for an old primary, and the errors of the query. A service that is only compatible with
    PostgreSQL may not report a timeline; it is accepted, and a warning is logged.
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


if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
    PooledConnection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
    AnyConnection = Connection | PooledConnection
else:
    # At run time the library's classes take no type arguments.
    Connection = asyncpg.Connection
    PooledConnection = asyncpg.pool.PoolConnectionProxy
    Pool = asyncpg.Pool
    AnyConnection = Connection | PooledConnection


async def connect(
    dsn: str,
    *,
    application_name: str,
    lock_ms: int = LOCK_MS,
    statement_seconds: float = STATEMENT_SECONDS,
    settings: Mapping[str, str] | None = None,
) -> "Connection":
    """Open one connection to a server that takes writes. `settings` are added to our own session settings.

    Raises OSError, TimeoutError or asyncpg.PostgresError; see `wallet.postgres.errors.failure_of`.
    """
    connection = await _connect_to_any(
        dsn,
        timeout=CONNECT_SECONDS,
        command_timeout=statement_seconds + (COMMAND_SECONDS - STATEMENT_SECONDS),
        target_session_attrs=SessionAttribute.read_write,
        server_settings=_session_settings(application_name, lock_ms, statement_seconds) | dict(settings or {}),
    )
    if statement_seconds <= STATEMENT_SECONDS and connection.get_server_version().major >= TRANSACTION_LIMIT_SINCE:
        try:
            await connection.execute(_LIMIT_TRANSACTIONS)
        except BaseException:
            connection.terminate()
            raise
    return connection


@asynccontextmanager
async def open_pool(dsn: str, *, application_name: str, size_max: int) -> AsyncIterator["Pool"]:
    """Open a pool that connects when it is first used, so that a process can start before its database."""
    pool = asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=size_max,
        timeout=CONNECT_SECONDS,
        command_timeout=COMMAND_SECONDS,
        target_session_attrs=SessionAttribute.read_write,
        server_settings=_session_settings(application_name, LOCK_MS, STATEMENT_SECONDS),
        reset=_keep_session,
        connect=_connect_to_any,
    )
    await pool
    try:
        yield pool
    finally:
        pool.terminate()


async def _connect_to_any(dsn: str | None = None, **options: Any) -> "Connection":
    """Connect to the first host that accepts the connection and meets the options. Raises the error of one host."""
    assert dsn is not None, "the pool was made with an address"
    addresses = _addresses_of(dsn)
    if len(addresses) == 1:
        return await _connect_to_one(dsn, dsn, options)
    waiting, errors = list(addresses), list[BaseException]()
    running = set[asyncio.Task["Connection"]]()
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(_connect_to_one(waiting.pop(0), dsn, options)))
            head_start = HEAD_START_SECONDS if waiting else None
            done, _ = await asyncio.wait(running, timeout=head_start, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                running.remove(attempt)
                error = attempt.exception()
                if error is None:
                    return attempt.result()
                errors.append(error)
    finally:
        for attempt in running:
            attempt.add_done_callback(_drop)
            attempt.cancel()
    # An error from a server (a wrong password, a missing database) can be fixed, so it is preferred to other errors.
    raise next((error for error in errors if isinstance(error, asyncpg.PostgresError)), errors[-1])


async def _connect_to_one(address: str, dsn: str, options: Mapping[str, Any]) -> "Connection":
    """Connect to one host of the configured address `dsn`."""
    connection: Connection = await asyncpg.connect(address, **options)
    try:
        await admit(connection, dsn)
    except BaseException:
        connection.terminate()
        raise
    return connection


def _addresses_of(dsn: str) -> Sequence[str]:
    """Returns one address for each host in the given address."""
    parts = urlsplit(dsn)
    login, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return [dsn]
    return [parts._replace(netloc=f"{login}{at}{host}").geturl() for host in hosts.split(",")]


def _drop(attempt: "asyncio.Task[Connection]") -> None:
    """End the connection of an attempt that succeeded too late."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()


def _session_settings(application_name: str, lock_ms: int, statement_seconds: float) -> dict[str, str]:
    return {
        "application_name": application_name,
        "timezone": "UTC",
        "statement_timeout": str(int(statement_seconds * 1000)),
        "lock_timeout": str(lock_ms),
        "idle_in_transaction_session_timeout": "5000",
        "jit": "off",
    }


async def _keep_session(_connection: object) -> None:
    """Reset nothing, because our sessions never change a setting outside a transaction."""
