"""A transaction ends after a while, whatever its client does: a process that froze must not hold its locks for ever."""

import asyncio

import asyncpg
import pytest

from tests.support.database import fetch_value
from tests.support.waiting import eventually
from wallet.postgres import connections as connections_module
from wallet.postgres.connections import TRANSACTION_LIMIT_SINCE, Connection, connect
from wallet.postgres.errors import DATABASE_ERRORS, Failure, failure_of

LOCK = "select from journal_head for update"
STATE = """
select state || ', ' || wait_event from pg_stat_activity
where datname = current_database() and application_name = 'frozen'
"""
PARSE_AND_FLUSH = b"P\0\0\0\x10\0select 1\0\0\0" + b"H\0\0\0\x04"
"""The first half of a statement, as asyncpg sends it: a server that waits for the second half is not idle."""


@pytest.fixture(autouse=True)
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "_LIMIT_TRANSACTIONS", "set transaction_timeout = '1s'")


async def test_a_client_that_froze_in_the_middle_of_a_statement_loses_its_locks(database_url: str) -> None:
    frozen = await connect(database_url, application_name="frozen")
    if frozen.get_server_version().major < TRANSACTION_LIMIT_SINCE:
        pytest.skip("needs PostgreSQL 17's transaction_timeout")
    await frozen.execute("begin")
    await frozen.execute(LOCK)
    send_raw(frozen, PARSE_AND_FLUSH)

    async def is_waited_for() -> bool:
        return bool(await fetch_value(database_url, STATE) == "active, ClientRead")

    await eventually(is_waited_for)
    successor = await connect(database_url, application_name="successor")

    async def is_free() -> bool:
        try:
            await successor.execute(LOCK)
        except asyncpg.LockNotAvailableError:
            return False
        return True

    await eventually(is_free)
    frozen.terminate()
    await successor.close()


async def test_a_transaction_that_takes_too_long_is_run_again_on_a_new_connection(database_url: str) -> None:
    connection = await connect(database_url, application_name="slow")
    failure: Failure | None = None
    try:
        async with asyncio.timeout(10), connection.transaction():
            while True:
                await connection.execute("select pg_sleep(0.1)")
    except DATABASE_ERRORS as error:
        failure = failure_of(error)
    assert failure is Failure.RECONNECT


async def test_a_connection_for_long_statements_has_no_limit(database_url: str) -> None:
    connection = await connect(database_url, application_name="long", statement_seconds=60)
    assert await connection.fetchval("show transaction_timeout") == "0"
    await connection.close()


def send_raw(connection: Connection, data: bytes) -> None:
    connection._transport.write(data)  # type: ignore[attr-defined]
