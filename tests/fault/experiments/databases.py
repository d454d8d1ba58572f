"""6 and 9: PostgreSQL is restarted, killed, or loses a backend under load; or ends while the worker consumes."""

import asyncio
from functools import partial

from tests.fault.laboratory import Laboratory
from tests.fault.load import History
from tests.support.broker import message_count
from tests.support.database import execute, fetch_value
from tests.support.process_faults import suspend
from tests.support.processes import WalletProcess
from tests.support.waiting import eventually, pause
from wallet.rabbitmq.topology import DEAD_LETTER_QUEUE

ANSWERS_BETWEEN = 150
BACKENDS_ENDED = 10
BACKLOG = 300
PAUSED_SECONDS_MAX = 30.0
HONEST = {"201", "400", "404", "503"}
END_A_BACKEND = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and application_name like 'wallet%' and pid <> pg_backend_pid()
order by random() limit 1
"""
FILL = """
create function refuse_rows() returns trigger language plpgsql as $$
begin
    raise exception 'no room' using errcode = 'disk_full';
end
$$
"""
FILL_AT = (
    "create trigger refuse_rows before insert or update on wallet_stats for each row execute function refuse_rows()"
)
ROOM = "drop trigger refuse_rows on wallet_stats"
FULL_PAUSES = 2


async def restart_postgres(lab: Laboratory) -> None:
    """Clients see latency or 503, never another error, and no effect is doubled or lost."""
    await lab.start_relay()
    await lab.start_worker()
    for _ in range(2):
        await lab.start_api(TRANSFER_MODE=lab.draw_mode())
    async with lab.load() as history:
        await history.more_answers(ANSWERS_BETWEEN)
        for breaking in lab.draw.sample((_stop, _kill, _end_backends), 3):
            await breaking(lab, history)
            await history.more_answers(ANSWERS_BETWEEN)
    seen = lab.tries()
    assert set(seen) <= HONEST, f"a client saw more than latency and 503: {seen}"


async def take_the_database_from_the_worker(lab: Laboratory) -> None:
    """The database ends while messages wait in the queue: none of them becomes a dead letter."""
    assert lab.rabbitmq_url is not None
    await lab.start_api()
    await lab.start_relay()
    worker = await lab.start_worker()
    for turn, goes in enumerate(lab.draw.sample((lab.postgres.stop, lab.postgres.kill), 2), start=1):
        async with suspend(worker):
            async with lab.load(concurrency=8, count=BACKLOG):
                pass
            await lab.all_published()
            await asyncio.to_thread(goes)
        await eventually(partial(_has_paused, worker, turn), within=PAUSED_SECONDS_MAX)
        await pause(lab.seconds / 10)
        await asyncio.to_thread(lab.postgres.start)
        lab.note(f"PostgreSQL was gone ({goes.__name__}) while {BACKLOG} requests' events waited")
    await _fill_the_database(lab, worker)
    assert await message_count(lab.rabbitmq_url, DEAD_LETTER_QUEUE) == 0
    assert await fetch_value(lab.database_url, "select count(*) from dead_letters") == 0


async def _fill_the_database(lab: Laboratory, worker: WalletProcess) -> None:
    """The database has no room for the effects: a dead letter could be stored, but must not be."""
    await execute(lab.database_url, FILL)
    await execute(lab.database_url, FILL_AT)
    paused = worker.logs().count("worker_paused")
    async with lab.load(concurrency=8, count=BACKLOG):
        pass

    async def has_paused() -> bool:
        letters = await fetch_value(lab.database_url, "select count(*) from dead_letters")
        assert letters == 0, f"{letters} dead letters while the database had no room"
        return _has_paused(worker, paused + FULL_PAUSES)

    await eventually(has_paused, within=PAUSED_SECONDS_MAX)
    await execute(lab.database_url, ROOM)
    await lab.at_rest()
    lab.note(f"PostgreSQL had no room while {BACKLOG} requests' events came")


def _has_paused(worker: WalletProcess, times: int) -> bool:
    return worker.logs().count("worker_paused") >= times


async def _stop(lab: Laboratory, history: History) -> None:
    await asyncio.to_thread(lab.postgres.stop)
    lab.note("PostgreSQL restarted (fast)")
    await pause(lab.seconds / 10)
    await asyncio.to_thread(lab.postgres.start)


async def _kill(lab: Laboratory, history: History) -> None:
    await asyncio.to_thread(lab.postgres.kill)
    lab.note("PostgreSQL killed")
    await asyncio.to_thread(lab.postgres.start)


async def _end_backends(lab: Laboratory, history: History) -> None:
    for _ in range(BACKENDS_ENDED):
        await execute(lab.database_url, END_A_BACKEND)
        await history.more_answers(10)
    lab.note(f"{BACKENDS_ENDED} backends terminated")
