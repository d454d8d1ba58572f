"""Connections and pools whose every wait has an end, below a request's deadline.

An address may name several hosts, `postgresql://user:password@a:5432,b:5432/wallet`: every connection goes to the one
that takes writes, so that after a failover it is found without a restart. An old primary that still takes writes is
refused (wallet.postgres.timelines).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from wallet.postgres.timelines import admit

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
    PooledConnection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
    AnyConnection = Connection | PooledConnection
else:
    # Outside the checker the library's classes take no type arguments.
    Connection = asyncpg.Connection
    PooledConnection = asyncpg.pool.PoolConnectionProxy
    Pool = asyncpg.Pool
    AnyConnection = Connection | PooledConnection

CONNECT_SECONDS: Final = 3.0
# How long a host may be silent before the next is asked as well: a dead machine refuses nothing.
HEAD_START_SECONDS: Final = 0.25
STATEMENT_SECONDS: Final = 5.0
# The client gives up later than the server, so that the server's own error arrives where the network lives.
COMMAND_SECONDS: Final = STATEMENT_SECONDS + 1.0
LOCK_MS: Final = 500
# Below a request's deadline, so that a request that waits behind a frozen process is still answered. The other limits
# do not see one that froze while it sent a statement: its server waits for the rest, and counts neither as idle nor as
# busy.
_LIMIT_TRANSACTIONS: Final = "set transaction_timeout = '8s'"
TRANSACTION_LIMIT_SINCE: Final = 17

ROWS_BY_KEY: Final = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
}
"""For sessions that only ever fetch and change rows by their keys: index look-ups, whatever the statistics say.

A table that was small or empty when a statement was planned is otherwise read from end to end for each batch, more
rows each time, until it happens to be analyzed (docs/performance.md).
"""


async def connect(
    dsn: str,
    *,
    application_name: str,
    lock_ms: int = LOCK_MS,
    statement_seconds: float = STATEMENT_SECONDS,
    settings: Mapping[str, str] | None = None,
) -> "Connection":
    """Open one connection to a server that takes writes; `settings` are the session's, besides our own.

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
    """A pool that connects when first used, so that a process may start before its database."""
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
    """Connect to the first of the hosts that has what the options ask for; raises one of the hosts' errors."""
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
    # What a server said (a wrong password, no such database) can be fixed, so it is reported first.
    raise next((error for error in errors if isinstance(error, asyncpg.PostgresError)), errors[-1])


async def _connect_to_one(address: str, dsn: str, options: Mapping[str, Any]) -> "Connection":
    """Connect to one host of the address that the process was given."""
    connection: Connection = await asyncpg.connect(address, **options)
    try:
        await admit(connection, dsn)
    except BaseException:
        connection.terminate()
        raise
    return connection


def _addresses_of(dsn: str) -> Sequence[str]:
    """The address of each host that it names."""
    parts = urlsplit(dsn)
    login, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return [dsn]
    return [parts._replace(netloc=f"{login}{at}{host}").geturl() for host in hosts.split(",")]


def _drop(attempt: "asyncio.Task[Connection]") -> None:
    """An attempt that came too late."""
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
    """Nothing to reset: our sessions never change a setting outside a transaction."""
