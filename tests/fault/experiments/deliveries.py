"""10: every event is delivered again and again, out of order, and from the start of the journal."""

from functools import partial

from tests.fault.laboratory import Laboratory
from tests.support.broker import bind_copy, take_all
from tests.support.database import execute, fetch_rows, fetch_value
from tests.support.waiting import eventually
from tests.support.worker import publish
from wallet.rabbitmq.publisher import OutgoingMessage

TIMES = 20
REQUESTS = 60
AGAIN_SECONDS_MAX = 20.0
JOURNAL_ORDER = "select event_id::text from events join journal using (batch_id) order by position, ordinal"
REWIND = "update worker_checkpoint set position = 0, token = token + 1"
"""A new token ends the worker's lease; a worker that keeps its lease does not read its position again."""
REACHED = "select position from worker_checkpoint"


async def deliver_again_and_again(lab: Laboratory) -> None:
    """Each event has its effects once, however often and in whatever order it is delivered."""
    await lab.start_api()
    if lab.rabbitmq_url is None:
        await _rewind(lab)
    else:
        await _shuffle(lab, lab.rabbitmq_url)


async def _shuffle(lab: Laboratory, url: str) -> None:
    relay = await lab.start_relay()
    await eventually(lambda: "broker_connected" in relay.logs(), within=AGAIN_SECONDS_MAX)
    copy = await bind_copy(url)
    async with lab.load(count=REQUESTS):
        pass
    await lab.all_published()
    events = [
        OutgoingMessage(body, properties.message_id, properties.type) for properties, body in await take_all(url, copy)
    ]
    assert len(events) == await fetch_value(lab.database_url, "select count(*) from events")
    right = [row[0] for row in await fetch_rows(lab.database_url, JOURNAL_ORDER)]
    assert [event.message_id for event in events] == right, "events were published in another order than the journal's"
    again = events * TIMES
    lab.draw.shuffle(again)
    await lab.start_worker()
    async with lab.load(concurrency=4) as history:
        await publish(url, again)
        await history.more_answers(50)
    lab.note(f"{len(events)} events, each {TIMES} times more, shuffled, among {len(history.exchanges)} other requests")


async def _rewind(lab: Laboratory) -> None:
    await lab.start_relay()
    await lab.start_worker()
    async with lab.load(concurrency=4, count=REQUESTS):
        pass
    async with lab.load(concurrency=2) as history:
        for _ in range(TIMES):
            await history.more_answers(10)
            reached = await fetch_value(lab.database_url, REACHED)
            await execute(lab.database_url, REWIND)
            await eventually(partial(_has_come_again, lab.database_url, reached), within=AGAIN_SECONDS_MAX)
    lab.note(f"the journal was read from its start {TIMES} times")


async def _has_come_again(database_url: str, position: object) -> bool:
    return await fetch_value(database_url, f"{REACHED} where position >= $1", position) is not None
