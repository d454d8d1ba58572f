"""Connections and pools whose every wait has an end, below a request's deadline."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
    PooledConnection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
    AnyConnection = Connection | PooledConnection

CONNECT_SECONDS: Final = 3.0
STATEMENT_SECONDS: Final = 5.0
# The client gives up later than the server, so that the server's own error arrives where the network lives.
COMMAND_SECONDS: Final = STATEMENT_SECONDS + 1.0
LOCK_MS: Final = 500

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
    return await asyncpg.connect(
        dsn,
        timeout=CONNECT_SECONDS,
        command_timeout=statement_seconds + (COMMAND_SECONDS - STATEMENT_SECONDS),
        target_session_attrs=SessionAttribute.read_write,
        server_settings=_session_settings(application_name, lock_ms, statement_seconds) | dict(settings or {}),
    )


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
    )
    await pool
    try:
        yield pool
    finally:
        pool.terminate()


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
