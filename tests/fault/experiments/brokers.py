"""5: the broker is stopped, killed, restarted under load, full, or unavailable for long."""

import asyncio

from tests.fault.laboratory import Laboratory
from tests.fault.load import History
from tests.support.broker import save_queue_directory
from tests.support.database import fetch_value
from tests.support.rabbitmq import RabbitMQServer
from tests.support.waiting import eventually, pause

AWAY_ANSWERS = 200
FULL = ("set_disk_free_limit", str(10**15))
ROOM = ("set_disk_free_limit", str(10**6))
PUBLISHED = "select count(*) from journal where published_at is not null"
OF_A_QUIET_API = {"201", "400", "404"}
DRAINED_SECONDS_MAX = 60.0
PAUSE_SECONDS = 0.1
"""A broker starts more slowly beside a full load, which would make the final check longer, but not stricter."""


async def break_the_broker(lab: Laboratory) -> None:
    """The api neither fails nor becomes slower; waiting events are published in order when the broker is back."""
    assert lab.broker is not None
    await lab.start_api()
    await lab.start_relay()
    await lab.start_worker()
    async with lab.load(concurrency=8, pause_seconds=PAUSE_SECONDS) as history:
        await history.more_answers(AWAY_ANSWERS)
        await asyncio.to_thread(save_queue_directory, lab.broker)
        for breaking in lab.draw.sample((_stop, _kill, _fill), 3):
            await breaking(lab, lab.broker, history)
            await _published_again(lab)
    seen = lab.tries()
    assert set(seen) <= OF_A_QUIET_API, f"the api was not unaffected: {seen}"


async def _stop(lab: Laboratory, broker: RabbitMQServer, history: History) -> None:
    await asyncio.to_thread(broker.stop)
    await _stay_away(lab, history, "stopped")
    await asyncio.to_thread(broker.start)


async def _kill(lab: Laboratory, broker: RabbitMQServer, history: History) -> None:
    await asyncio.to_thread(broker.kill)
    await _stay_away(lab, history, "killed")
    await asyncio.to_thread(broker.start)


async def _fill(lab: Laboratory, broker: RabbitMQServer, history: History) -> None:
    await asyncio.to_thread(broker.ctl, *FULL)
    await _stay_away(lab, history, "out of disk")
    await asyncio.to_thread(broker.ctl, *ROOM)


async def _stay_away(lab: Laboratory, history: History, how: str) -> None:
    began = asyncio.get_running_loop().time()
    await history.more_answers(AWAY_ANSWERS)
    await pause(lab.seconds / 10)
    lab.note(f"broker {how} for {asyncio.get_running_loop().time() - began:.1f} s")


async def _published_again(lab: Laboratory) -> None:
    before = await fetch_value(lab.database_url, PUBLISHED)

    async def is_publishing() -> bool:
        return bool(await fetch_value(lab.database_url, PUBLISHED) != before)

    await eventually(is_publishing, within=DRAINED_SECONDS_MAX)
