"""10: every event is delivered again and again, out of order, and from the start of the journal."""

from tests.fault.laboratory import Laboratory
from tests.support.books import fetch_value
from tests.support.broker import bind_copy, take_all
from tests.support.worker import fetch, publish
from wallet.rabbitmq.publisher import Message

TIMES = 20
REQUESTS = 60
REWIND = "update worker_checkpoint set position = 0"


async def deliver_again_and_again(lab: Laboratory) -> None:
    """Each event has its effects once, however often and in whatever order it comes."""
    await lab.start_api()
    if lab.rabbitmq_url is None:
        await _rewind(lab)
    else:
        await _shuffle(lab, lab.rabbitmq_url)


async def _shuffle(lab: Laboratory, url: str) -> None:
    await lab.start_relay()
    copy = await bind_copy(url)
    async with lab.load(count=REQUESTS):
        pass
    await lab.all_published()
    events = [Message(body, properties.message_id, properties.type) for properties, body in await take_all(url, copy)]
    assert len(events) == await fetch_value(lab.database_url, "select count(*) from events")
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
    async with lab.load(concurrency=8) as history:
        for _ in range(TIMES):
            await history.more_answers(10)
            await fetch(lab.database_url, REWIND)
    lab.note(f"the journal was read from its start {TIMES} times")
