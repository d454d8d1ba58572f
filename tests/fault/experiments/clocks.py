"""21: leases from a clock that was ahead, then a failover that leaves the old primary running."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from urllib.parse import urlsplit

import psutil

from tests.fault.laboratory import Laboratory
from tests.support.books import fetch_value
from tests.support.postgres import PostgresServer
from tests.support.sessions import family_of
from tests.support.standby import Standby
from tests.support.waiting import eventually
from tests.support.worker import fetch

ANSWERS_BETWEEN = 150
SWITCH_SECONDS_MAX = 60.0
LEAVE_SECONDS_MAX = 30.0
LEASES = ("journal_head", "worker_checkpoint", "auditor")
AHEAD = "update {} set holder = 'ahead', token = token + 1, lease_until = now() + interval '1 hour'"
SESSIONS = """
select string_agg(format('%s (%s): %s', application_name, state, query), '; ') from pg_stat_activity
where datname = current_database() and application_name like 'wallet%'
"""
WRITTEN = "select count(*) from journal"
COMMIT_ALONE = "alter system set synchronous_standby_names = ''"


async def put_the_clock_back_and_fail_over(lab: Laboratory) -> None:
    """Every lease ends in an hour, as after a clock was put back: others take over. Then there are two primaries."""
    standby = lab.resources.enter_context(Standby(lab.reaper, lab.postgres))
    await asyncio.to_thread(standby.be_waited_for)
    old_url, new_url = lab.database_url, standby.url(urlsplit(lab.database_url).path[1:])
    lab.settings["DATABASE_URL"] = _both(old_url, new_url)
    await lab.start_relay()
    await lab.start_worker()
    for _ in range(2):
        await lab.start_api(TRANSFER_MODE=lab.draw_mode())
    async with lab.load(concurrency=8) as history:
        await history.more_answers(ANSWERS_BETWEEN)
        for table in LEASES:
            await fetch(old_url, AHEAD.format(table))
        await history.more_answers(ANSWERS_BETWEEN)
        await lab.all_published()
        lab.note("every lease ended an hour ahead, and was taken over")
        with _frozen(lab.postgres):
            await asyncio.to_thread(standby.promote)
            lab.database_url = new_url
            await history.more_answers(ANSWERS_BETWEEN)
            # One that had nothing to do on its connections meanwhile would not know of the failover.
            await eventually(lambda: _have_all_switched(lab), within=SWITCH_SECONDS_MAX)
        # The mistake that makes two primaries: the old one takes commits without its standby.
        await fetch(old_url, COMMIT_ALONE)
        await fetch(old_url, "select pg_reload_conf()")
        await eventually(partial(_has_no_session, old_url), within=LEAVE_SECONDS_MAX)
        written = await fetch_value(old_url, WRITTEN)
        await history.more_answers(ANSWERS_BETWEEN)
        assert await fetch_value(old_url, WRITTEN) == written, "a process wrote to the old primary"
        lab.note("with two primaries, nothing was written to the old one")


def _both(first_url: str, second_url: str) -> str:
    """One address that names both servers, in this order."""
    place = urlsplit(second_url).netloc.rpartition("@")[2]
    parts = urlsplit(first_url)
    return parts._replace(netloc=f"{parts.netloc},{place}").geturl()


@contextmanager
def _frozen(server: PostgresServer) -> Iterator[None]:
    """While inside, no process of the server runs, as on a machine that hangs."""
    frozen: list[psutil.Process] = []
    # From the postmaster down, so that it starts no further process meanwhile.
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
