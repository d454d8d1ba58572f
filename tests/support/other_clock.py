"""A PostgreSQL database whose clock is wrong."""

from tests.support.database import connected


async def set_clock(database_url: str, difference: str) -> None:
    """Make `clock_timestamp()` differ by this much in new sessions of the database; no other clock changes.

    Sessions that began after the first call are affected by each later change at once.
    """
    async with connected(database_url) as connection:
        await connection.execute("create schema if not exists other_clock")
        await connection.execute(
            "create or replace function other_clock.clock_timestamp() returns timestamptz language sql volatile"
            f" as $$ select pg_catalog.clock_timestamp() + interval '{difference}' $$"
        )
        database = await connection.fetchval("select current_database()")
        await connection.execute(f'alter database "{database}" set search_path = other_clock, pg_catalog, public')
