"""Messages of any size cost the worker a bounded amount of memory, and no limit makes a group come again forever."""

import re
from functools import partial
from hashlib import sha256
from uuid import uuid4

import pytest

from tests.support.broker import message_count
from tests.support.database import connected, fetch_rows, fetch_value
from tests.support.deployment import compose
from tests.support.event_log import Log
from tests.support.processes import Processes
from tests.support.rabbitmq import RabbitMQServer
from tests.support.waiting import eventually
from tests.support.worker import publish, queue_counts, running_worker, until
from wallet.postgres import connections
from wallet.rabbitmq import consumer as consumer_module
from wallet.rabbitmq.connection import ChannelRefused
from wallet.rabbitmq.consumer import Consumer
from wallet.rabbitmq.publisher import OutgoingMessage, Publisher
from wallet.rabbitmq.topology import DEAD_LETTER_QUEUE, WORKER_QUEUE, Topology
from wallet.wire.envelope import BODY_BYTES_MAX, BODY_STORED_BYTES_MAX

pytestmark = pytest.mark.alone

MIB = 1024 * 1024
FINISH_SECONDS_MAX = 60.0


async def open_dead_letters(database_url: str) -> int:
    count = await fetch_value(database_url, "select count(*) from dead_letters where state = 'open'")
    return int(count)


async def test_a_consumer_keeps_a_bounded_number_of_bytes_and_loses_no_message(
    rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "UNACKNOWLEDGED_BYTES_MAX", 4 * MIB)
    monkeypatch.setattr(consumer_module, "GROUP_BYTES_MAX", 2 * MIB)
    monkeypatch.setattr(consumer_module, "FULL_PREFETCH_AFTER", 20)
    large = [str(number).encode() * MIB for number in range(10)]
    small = [b"small %d" % number for number in range(100)]
    await publish(rabbitmq_url, [OutgoingMessage(body, str(uuid4()), None) for body in [*large, *small]])
    seen: set[bytes] = set()
    sessions: set[int] = set()
    async with Consumer.open(rabbitmq_url, Topology()) as consumer:
        while len(seen) < len(large) + len(small):
            group = await consumer.next_group()
            assert sum(len(delivery.body) for delivery in group) <= 2 * MIB
            session = consumer._session
            assert session is not None
            assert session._unacknowledged_bytes <= 4 * MIB
            if not seen:
                await eventually(partial(getattr, session, "is_full"))
            seen.update(delivery.body for delivery in group)
            sessions.update(delivery.session for delivery in group)
            await consumer.ack(group)
        assert consumer._prefetch == consumer._prefetch_max
    assert seen == {*large, *small}
    assert len(sessions) > 1
    assert await message_count(rabbitmq_url, WORKER_QUEUE) == 0


async def test_of_a_long_body_the_beginning_is_kept_with_the_length_and_digest_of_the_whole(rabbitmq_url: str) -> None:
    body = bytes(range(256)) * (5 * MIB // 256)
    await publish(rabbitmq_url, [OutgoingMessage(body, None, None)])
    async with Consumer.open(rabbitmq_url, Topology()) as consumer:
        [delivery] = await consumer.next_group()
        assert delivery.body == body[:BODY_STORED_BYTES_MAX]
        assert delivery.whole is not None
        assert (delivery.whole.length, delivery.whole.sha256) == (len(body), sha256(body).digest())
        await consumer.ack([delivery])


async def test_a_flood_of_large_messages_becomes_dead_letters_in_bounded_memory(
    database_url: str, rabbitmq_url: str, processes: Processes
) -> None:
    sizes = [16 * MIB] * 12 + [MIB] * 100
    await publish(
        rabbitmq_url, (OutgoingMessage(b"%03d" % n + b"x" * (size - 3), None, None) for n, size in enumerate(sizes))
    )
    worker = processes.start_worker(DATABASE_URL=database_url, RABBITMQ_URL=rabbitmq_url)

    async def are_dead_letters() -> bool:
        return await open_dead_letters(database_url) == len(sizes)

    await until(are_dead_letters, within=FINISH_SECONDS_MAX)
    peak = worker.peak_bytes()
    assert peak < 300 * MIB, f"the worker used {peak / MIB:.0f} MiB"
    [(longest, stored)] = await fetch_rows(
        database_url, "select max(body_bytes), max(octet_length(body)) from dead_letters"
    )
    assert (longest, stored) == (16 * MIB, BODY_STORED_BYTES_MAX)
    assert await queue_counts(rabbitmq_url) == (0, len(sizes))
    assert await message_count(rabbitmq_url, DEAD_LETTER_QUEUE) == len(sizes)


SLOW = """
create function be_slow() returns trigger language plpgsql as $$
begin
    perform pg_sleep(0.05);
    return new;
end
$$
"""


@pytest.mark.parametrize("table", ["dead_letters", "processed_events"])
async def test_a_group_that_exceeds_the_time_limit_of_a_transaction_comes_again_in_smaller_groups(
    database_url: str, rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    async with connected(database_url) as connection:
        if connection.get_server_version().major < connections.TRANSACTION_LIMIT_SINCE:
            pytest.skip("PostgreSQL before 17 has no limit for a transaction")
        await connection.execute(SLOW)
        await connection.execute(
            f"create trigger slow before insert on {table} for each row execute function be_slow()"
        )
    monkeypatch.setattr(connections, "_LIMIT_TRANSACTIONS", "set transaction_timeout = '700ms'")
    async with Log.open(database_url) as log:
        for number in range(40):
            log.deposit(f"wallet-{number}")
        events = await log.commit()
    garbage = [OutgoingMessage(b"garbage %d" % number, None, None) for number in range(40)]
    await publish(rabbitmq_url, garbage if table == "dead_letters" else events)
    async with running_worker(database_url, rabbitmq_url):

        async def is_handled() -> bool:
            count = await fetch_value(database_url, f"select count(*) from {table}")
            return bool(count >= 40)

        await until(is_handled, within=FINISH_SECONDS_MAX)


async def test_the_limit_that_compose_gives_the_broker_lets_every_event_pass_and_refuses_larger_messages(
    rabbitmq_server: RabbitMQServer, rabbitmq_url: str
) -> None:
    arguments = compose()["services"]["rabbitmq"]["environment"]["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"]
    [limit] = re.findall(r"^-rabbit max_message_size (\d+)$", arguments)
    before = rabbitmq_server.evaluate("element(2, application:get_env(rabbit, max_message_size)).").strip()
    rabbitmq_server.evaluate(f"application:set_env(rabbit, max_message_size, {limit}).")
    try:
        await publish(rabbitmq_url, [OutgoingMessage(b"x" * BODY_BYTES_MAX, None, None)])
        async with Publisher.open(rabbitmq_url, Topology(), name="test") as publisher:
            with pytest.raises(ChannelRefused, match="message size"):
                await publisher.publish([OutgoingMessage(b"x" * (int(limit) + 1), None, None)])
    finally:
        rabbitmq_server.evaluate(f"application:set_env(rabbit, max_message_size, {before}).")
    assert await message_count(rabbitmq_url, WORKER_QUEUE) == 1
