"""21: a clock that is years ahead, leases in the future, then a failover that leaves the old primary running."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from urllib.parse import urlsplit

import psutil

from tests.fault.laboratory import Laboratory
from tests.support.client import open_client
from tests.support.database import execute, fetch_value
from tests.support.other_clock import set_clock
from tests.support.postgres import PostgresServer
from tests.support.sessions import family_of
from tests.support.standby import Standby
from tests.support.waiting import eventually

ANSWERS_BETWEEN = 150
SWITCH_SECONDS_MAX = 60.0
LEAVE_SECONDS_MAX = 30.0
LEASES = ("journal_head", "worker_checkpoint", "auditor")
AHEAD = "update {} set holder = 'ahead', token = token + 1, lease_until = now() + interval '1 hour'"
SESSIONS = """
select string_agg(format('%s (%s): %s', application_name, state, query), '; ') from pg_stat_activity
where datname = current_database() and application_name like 'wallet%'
"""
FUTURE_EVENTS = "select count(*) from events where occurred_at > pg_catalog.clock_timestamp() + interval '1 hour'"
WRITTEN = "select count(*) from journal"
COMMIT_ALONE = "alter system set synchronous_standby_names = ''"


async def put_the_clock_back_and_fail_over(lab: Laboratory) -> None:
    """PostgreSQL's clock is wrong for a while, then every lease ends in an hour, then there are two primaries."""
    standby = lab.resources.enter_context(Standby(lab.reaper, lab.postgres))
    await asyncio.to_thread(standby.be_waited_for)
    old_url, new_url = lab.database_url, standby.url(urlsplit(lab.database_url).path[1:])
    lab.settings["DATABASE_URL"] = _both(old_url, new_url)
    await set_clock(old_url, "0 seconds")
    await lab.start_relay()
    await lab.start_worker()
    apis = [await lab.start_api(TRANSFER_MODE=lab.draw_mode()) for _ in range(2)]
    async with lab.load(concurrency=8) as history:
        await history.more_answers(ANSWERS_BETWEEN)
        await _put_the_clock_years_ahead(old_url, [api.url for api in apis])
        lab.note("with the clock 10 years ahead, no batch was executed")
        await history.more_answers(ANSWERS_BETWEEN)
        for table in LEASES:
            await execute(old_url, AHEAD.format(table))
        await history.more_answers(ANSWERS_BETWEEN)
        await lab.all_published()
        lab.note("every lease ended an hour ahead, and was taken over")
        with _frozen(lab.postgres):
            await asyncio.to_thread(standby.promote)
            lab.database_url = new_url
            await history.more_answers(ANSWERS_BETWEEN)
            # A process without work on its connections notices the failover later; wait for all of them.
            await eventually(lambda: _have_all_switched(lab), within=SWITCH_SECONDS_MAX)
        # The mistake that causes two primaries: the old one now accepts commits without its standby.
        await execute(old_url, COMMIT_ALONE)
        await execute(old_url, "select pg_reload_conf()")
        await eventually(partial(_has_no_session, old_url), within=LEAVE_SECONDS_MAX)
        written = await fetch_value(old_url, WRITTEN)
        await history.more_answers(ANSWERS_BETWEEN)
        assert await fetch_value(old_url, WRITTEN) == written, "a process wrote to the old primary"
        lab.note("with two primaries, nothing was written to the old one")


async def _put_the_clock_years_ahead(database_url: str, api_urls: list[str]) -> None:
    """While the clock is wrong no command is executed, and each refusal names the clock."""
    async with open_client(*api_urls) as client:
        await set_clock(database_url, "10 years")
        try:
            for number, url in enumerate(api_urls):
                reply = await client.post_once("/wallet/late/deposit", {"amount": 1, "requestId": f"{number}"}, url=url)
                assert (reply.status, reply.json()["code"]) == (503, "not_executed"), reply
                assert "clock" in reply.json()["detail"], reply
            assert not await fetch_value(database_url, FUTURE_EVENTS)
        finally:
            await set_clock(database_url, "0 seconds")


def _both(first_url: str, second_url: str) -> str:
    """Returns one address that names both servers, in this order."""
    place = urlsplit(second_url).netloc.rpartition("@")[2]
    parts = urlsplit(first_url)
    return parts._replace(netloc=f"{parts.netloc},{place}").geturl()


@contextmanager
def _frozen(server: PostgresServer) -> Iterator[None]:
    """Stops all processes of the server as long as the block runs, as on a machine that hangs."""
    frozen: list[psutil.Process] = []
    # The postmaster first, so that it starts no further process meanwhile.
    for process in family_of(server.pid):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
            frozen.append(process)
    try:
        yield
    finally:
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


def _have_all_switched(lab: Laboratory) -> bool:
    late = [process.name for process in lab.processes.started if "timeline_changed" not in process.logs()]
    assert not late, f"still on the old primary: {late}"
    return True


async def _has_no_session(url: str) -> bool:
    sessions = await fetch_value(url, SESSIONS)
    assert sessions is None, f"still connected: {sessions}"
    return True
