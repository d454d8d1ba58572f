"""The room that speaks AMQP, against a real broker: topology, confirms, consuming, and every way to lose it."""

import asyncio
import logging
import socket
from uuid import uuid4

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.support.broker import (
    consumer_count,
    message_count,
    next_deliveries,
    raw_channel,
    save_queue_directory,
    take_all,
)
from tests.support.rabbitmq import RabbitMQServer
from tests.support.waiting import eventually
from wallet.rabbitmq import connection as connection_module
from wallet.rabbitmq.connection import BrokerUnavailable, InvalidBrokerAddress, connect
from wallet.rabbitmq.consumer import Consumer
from wallet.rabbitmq.publisher import NotPublished, OutgoingMessage, Publisher
from wallet.rabbitmq.topology import DEAD_LETTER_QUEUE, WORKER_QUEUE, Topology, TopologyMismatch

TOPOLOGY = Topology()


def message(body: bytes = b"{}") -> OutgoingMessage:
    return OutgoingMessage(body, str(uuid4()), "FundsDeposited")


async def publish(url: str, *messages: OutgoingMessage) -> None:
    async with Publisher.open(url, TOPOLOGY, name="test") as publisher:
        assert await publisher.publish(messages) == frozenset()


async def test_everyone_declares_the_topology_and_nobody_minds(rabbitmq_url: str) -> None:
    async with (
        Publisher.open(rabbitmq_url, TOPOLOGY, name="first"),
        Publisher.open(rabbitmq_url, TOPOLOGY, name="second"),
    ):
        assert await message_count(rabbitmq_url, WORKER_QUEUE) == 0
        assert await message_count(rabbitmq_url, DEAD_LETTER_QUEUE) == 0


async def test_a_queue_with_other_arguments_is_named_with_the_cure(rabbitmq_url: str) -> None:
    async with raw_channel(rabbitmq_url) as channel:
        await channel.call(channel.pika.queue_declare, queue=WORKER_QUEUE, durable=True)
    with pytest.raises(TopologyMismatch, match=rf"queue {WORKER_QUEUE} exists .*x-dead-letter-exchange.* rename it"):
        async with Publisher.open(rabbitmq_url, TOPOLOGY, name="test"):
            pass
    async with Consumer.open(rabbitmq_url, TOPOLOGY) as consumer:
        with pytest.raises(TopologyMismatch, match="rename it"):
            await consumer.next_group()


async def test_an_exchange_of_another_type_is_named_with_its_setting(rabbitmq_url: str) -> None:
    async with raw_channel(rabbitmq_url) as channel:
        await channel.call(channel.pika.exchange_declare, exchange="wallet.events", exchange_type="topic")
    with pytest.raises(TopologyMismatch, match=r"exchange wallet\.events exists .*Set RABBITMQ_EXCHANGE"):
        async with Publisher.open(rabbitmq_url, TOPOLOGY, name="test"):
            pass


async def test_a_message_arrives_persistent_with_its_id_and_type(rabbitmq_url: str) -> None:
    sent = message(b'{"n":1}')
    await publish(rabbitmq_url, sent)
    [(properties, body)] = await take_all(rabbitmq_url, WORKER_QUEUE)
    assert body == sent.body
    assert (properties.message_id, properties.type) == (sent.message_id, sent.type)
    assert (properties.delivery_mode, properties.content_type) == (2, "application/json")


async def test_a_window_of_many_messages_arrives_whole_and_in_order(rabbitmq_url: str) -> None:
    sent = [message(str(number).encode()) for number in range(1_000)]
    await publish(rabbitmq_url, *sent)
    async with Consumer.open(rabbitmq_url, TOPOLOGY) as consumer:
        received: list[bytes] = []
        while len(received) < len(sent):
            group = await consumer.next_group()
            assert len(group) <= 200
            received += [delivery.body for delivery in group]
            await consumer.ack(group)
    assert received == [each.body for each in sent]


async def test_the_routing_key_is_the_event_type(rabbitmq_url: str) -> None:
    async with Publisher.open(rabbitmq_url, TOPOLOGY, name="test") as publisher:
        async with raw_channel(rabbitmq_url) as channel:
            await channel.call(channel.pika.exchange_declare, exchange="team", exchange_type="topic", durable=True)
            await channel.call(channel.pika.exchange_bind, destination="team", source="wallet.events")
            await channel.call(channel.pika.queue_declare, queue="theirs", durable=True)
            await channel.call(channel.pika.queue_bind, queue="theirs", exchange="team", routing_key="FundsWithdrawn")
        withdrawn = OutgoingMessage(b"{}", str(uuid4()), "FundsWithdrawn")
        assert await publisher.publish([message(), withdrawn]) == frozenset()
    [(properties, _)] = await take_all(rabbitmq_url, "theirs")
    assert properties.message_id == withdrawn.message_id


async def test_a_message_that_no_queue_takes_is_not_published(rabbitmq_url: str) -> None:
    async with Publisher.open(rabbitmq_url, TOPOLOGY, name="test") as publisher:
        async with raw_channel(rabbitmq_url) as channel:
            await channel.call(channel.pika.queue_delete, queue=WORKER_QUEUE)
        window = await publisher.send([message(), message()])
        assert await publisher.wait_until_confirmed(window) == {0, 1}
        assert window.reason == "returned: 312 NO_ROUTE"
        with pytest.raises(NotPublished, match="NO_ROUTE"):
            await publisher.publish_to_worker_queue(message())


async def test_a_message_the_queue_refuses_is_not_published(rabbitmq_url: str) -> None:
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    async with Publisher.open(rabbitmq_url, TOPOLOGY, name="test") as publisher:
        async with raw_channel(rabbitmq_url) as channel:
            await channel.call(channel.pika.queue_declare, queue="full", durable=True, arguments=arguments)
            await channel.call(channel.pika.queue_bind, queue="full", exchange="wallet.events", routing_key="")
        assert await publisher.publish([message()]) == frozenset()
        window = await publisher.send([message()])
        assert await publisher.wait_until_confirmed(window) == {0}
        assert window.reason == "refused by the queue"


async def test_a_replayed_message_reaches_the_workers_queue_alone(rabbitmq_url: str) -> None:
    async with Publisher.open(rabbitmq_url, TOPOLOGY, name="test") as publisher:
        async with raw_channel(rabbitmq_url) as channel:
            await channel.call(channel.pika.queue_declare, queue="theirs", durable=True)
            await channel.call(channel.pika.queue_bind, queue="theirs", exchange="wallet.events", routing_key="")
        await publisher.publish_to_worker_queue(OutgoingMessage(b"not json", None, None, {"x-note": "as it was"}))
    [(properties, body)] = await take_all(rabbitmq_url, WORKER_QUEUE)
    assert (body, properties.message_id) == (b"not json", None)
    assert (properties.headers or {})["x-note"] == "as it was"
    assert await message_count(rabbitmq_url, "theirs") == 0


async def test_a_rejected_message_is_dead_lettered_and_the_others_flow_on(rabbitmq_url: str) -> None:
    sent = [message(str(number).encode()) for number in range(3)]
    await publish(rabbitmq_url, *sent)
    async with Consumer.open(rabbitmq_url, TOPOLOGY) as consumer:
        group = await next_deliveries(consumer, 3)
        await consumer.reject(group[1])
        await consumer.ack(group)
        await eventually(lambda: message_count(rabbitmq_url, DEAD_LETTER_QUEUE))
    assert await message_count(rabbitmq_url, WORKER_QUEUE) == 0
    [(properties, body)] = await take_all(rabbitmq_url, DEAD_LETTER_QUEUE)
    assert (body, properties.message_id) == (sent[1].body, sent[1].message_id)


async def test_headers_come_as_they_were_sent_and_in_plain_types(rabbitmq_url: str) -> None:
    headers = {"number": 2**40, "small": 1, "flag": True, "text": "é", "nested": {"list": [1, "two", None]}}
    async with Publisher.open(rabbitmq_url, TOPOLOGY, name="test") as publisher:
        await publisher.publish_to_worker_queue(OutgoingMessage(b"", None, None, headers))
    async with Consumer.open(rabbitmq_url, TOPOLOGY) as consumer:
        [delivery] = await next_deliveries(consumer, 1)
    assert {name: value for name, value in delivery.headers.items() if not name.startswith("x-")} == headers
    assert msgspec.json.decode(msgspec.json.encode(delivery.headers)) == delivery.headers


async def test_an_ack_acknowledges_no_message_it_does_not_name(rabbitmq_url: str) -> None:
    await publish(rabbitmq_url, *(message(str(number).encode()) for number in range(4)))
    async with Consumer.open(rabbitmq_url, TOPOLOGY) as consumer:
        group = await next_deliveries(consumer, 4)
        await consumer.ack([group[1], group[3]])
    async with Consumer.open(rabbitmq_url, TOPOLOGY) as consumer:
        again = await next_deliveries(consumer, 2)
        assert {delivery.body for delivery in again} == {b"0", b"2"}
        assert all(delivery.redelivered for delivery in again)


async def test_acknowledging_a_delivery_of_a_lost_connection_is_dropped(
    rabbitmq_server: RabbitMQServer, rabbitmq_url: str
) -> None:
    await publish(rabbitmq_url, message(b"1"), message(b"2"))
    async with Consumer.open(rabbitmq_url, TOPOLOGY) as consumer:
        stale = await next_deliveries(consumer, 2)
        await asyncio.to_thread(rabbitmq_server.ctl, "close_all_connections", "--global", "a test")
        with pytest.raises(BrokerUnavailable, match="a test"):
            await consumer.next_group()
        await consumer.ack(stale[:1])
        fresh = await next_deliveries(consumer, 2)
        assert [delivery.tag for delivery in fresh] == [delivery.tag for delivery in stale]
        await consumer.reject(stale[0])
        await consumer.ack(stale)
        await consumer.ack(fresh)
    assert await message_count(rabbitmq_url, WORKER_QUEUE) == 0
    assert await message_count(rabbitmq_url, DEAD_LETTER_QUEUE) == 0


async def test_a_paused_consumer_gives_its_messages_back_and_takes_them_again(rabbitmq_url: str) -> None:
    await publish(rabbitmq_url, message(b"1"))
    async with Consumer.open(rabbitmq_url, TOPOLOGY) as consumer:
        await next_deliveries(consumer, 1)
        await consumer.pause()
        assert await message_count(rabbitmq_url, WORKER_QUEUE) == 1
        await consumer.resume()
        [delivery] = await next_deliveries(consumer, 1)
        assert delivery.redelivered
        await consumer.ack([delivery])
    assert await message_count(rabbitmq_url, WORKER_QUEUE) == 0


async def test_a_consumer_whose_queue_is_deleted_declares_it_again(rabbitmq_url: str) -> None:
    async with Consumer.open(rabbitmq_url, TOPOLOGY) as consumer:
        waiting = asyncio.create_task(consumer.next_group())
        async with raw_channel(rabbitmq_url) as channel:
            await eventually(lambda: consumer_count(rabbitmq_url, WORKER_QUEUE))
            await channel.call(channel.pika.queue_delete, queue=WORKER_QUEUE)
        with pytest.raises(BrokerUnavailable, match="cancelled the consumer"):
            await waiting
        waiting = asyncio.create_task(consumer.next_group())
        await eventually(lambda: consumer_count(rabbitmq_url, WORKER_QUEUE))
        await publish(rabbitmq_url, message(b"1"))
        assert [delivery.body for delivery in await waiting] == [b"1"]


async def test_publisher_and_consumer_outlive_a_broker_that_is_killed(
    rabbitmq_server: RabbitMQServer, rabbitmq_url: str
) -> None:
    async with Publisher.open(rabbitmq_url, TOPOLOGY, name="test") as publisher:
        assert await publisher.publish([message(b"before")]) == frozenset()
        await asyncio.to_thread(save_queue_directory, rabbitmq_server)
        await asyncio.to_thread(rabbitmq_server.kill)
        with pytest.raises(BrokerUnavailable):
            await publisher.publish([message(b"lost")])
    async with Consumer.open(rabbitmq_url, TOPOLOGY) as consumer:
        with pytest.raises(BrokerUnavailable):
            await consumer.next_group()
        await asyncio.to_thread(rabbitmq_server.start)
        [delivery] = await next_deliveries(consumer, 1)
        assert delivery.body == b"before"
        await consumer.ack([delivery])
        await publish(rabbitmq_url, message(b"after"))
        [delivery] = await next_deliveries(consumer, 1)
        assert delivery.body == b"after"


async def test_a_blocked_broker_holds_the_publisher_back_and_loses_nothing(
    rabbitmq_server: RabbitMQServer, rabbitmq_url: str
) -> None:
    async with Publisher.open(rabbitmq_url, TOPOLOGY, name="test") as publisher:
        await asyncio.to_thread(rabbitmq_server.ctl, "set_vm_memory_high_watermark", "0")
        try:
            # RabbitMQ notifies a connection that it is blocked when that publishes for the first time.
            with capture_logs() as logs:
                first = asyncio.create_task(publisher.publish([message(b"1")]))
                await eventually(lambda: any(log["event"] == "broker_blocked" for log in logs))
            assert not first.done()
        finally:
            await asyncio.to_thread(rabbitmq_server.ctl, "set_vm_memory_high_watermark", "0.6")
        assert await first == frozenset()
        assert await publisher.publish([message(b"2")]) == frozenset()
    assert [body for _, body in await take_all(rabbitmq_url, WORKER_QUEUE)] == [b"1", b"2"]


async def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{port}/"):
            await connect(f"amqp://guest:guest@127.0.0.1:{port}/", name="test")


async def test_credentials_are_in_no_message_and_no_log(rabbitmq_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = rabbitmq_url.replace("guest:guest", "guest:s3cret-pa55")
    with capture_logs() as logs, pytest.raises(BrokerUnavailable) as refused:
        async with Publisher.open(wrong, TOPOLOGY, name="test"):
            pass
    with pytest.raises(InvalidBrokerAddress) as invalid:
        await connect("amqp://guest:s3cret-pa55@host:not-a-port/", name="test")
    assert "ACCESS_REFUSED" in str(refused.value)
    said = f"{refused.value!r} {invalid.value!r} {logs} {caplog.text}"
    assert "s3cret" not in said
    assert "pa55" not in said
