"""Operations of a test on RabbitMQ that bypass the code under test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from tests.support.rabbitmq import RabbitMQServer
from wallet.rabbitmq.connection import BrokerChannel, BrokerUnavailable, connect
from wallet.rabbitmq.consumer import Consumer, Delivery
from wallet.rabbitmq.topology import Topology


@asynccontextmanager
async def raw_channel(url: str) -> AsyncIterator[BrokerChannel]:
    """Opens a channel on which any method can be called."""
    connection = await connect(url, name="test")
    try:
        yield await connection.open_channel()
    finally:
        await connection.close()


async def message_count(url: str, queue: str) -> int:
    """Returns how many messages are ready in a queue."""

    def count(channel: BlockingChannel) -> int:
        return int(channel.queue_declare(queue, passive=True).method.message_count)

    return await asyncio.to_thread(_with_channel, url, count)


async def consumer_count(url: str, queue: str) -> int:
    """Returns how many consumers a queue has, and 0 if the queue does not exist."""

    def count(channel: BlockingChannel) -> int:
        try:
            return int(channel.queue_declare(queue, passive=True).method.consumer_count)
        except ChannelClosedByBroker:
            return 0

    return await asyncio.to_thread(_with_channel, url, count)


async def take_all(url: str, queue: str) -> list[tuple[pika.BasicProperties, bytes]]:
    """Empty a queue. Returns the properties and the body of each message, in order."""

    def take(channel: BlockingChannel) -> list[tuple[pika.BasicProperties, bytes]]:
        taken: list[tuple[pika.BasicProperties, bytes]] = []
        while True:
            method, properties, body = channel.basic_get(queue, auto_ack=True)
            if method is None or properties is None or body is None:
                return taken
            taken.append((properties, body))

    return await asyncio.to_thread(_with_channel, url, take)


async def bind_copy(url: str) -> str:
    """Create a second queue that also receives what is published from now on. Returns its name."""

    def bind(channel: BlockingChannel) -> str:
        channel.queue_declare("copy", durable=True)
        channel.queue_bind("copy", Topology().exchange)
        return "copy"

    return await asyncio.to_thread(_with_channel, url, bind)


async def next_deliveries(consumer: Consumer, count: int) -> list[Delivery]:
    """Returns this many deliveries, in the groups in which they arrive; lost connections do not end it."""
    deliveries: list[Delivery] = []
    async with asyncio.timeout(30):
        while len(deliveries) < count:
            with suppress(BrokerUnavailable):
                deliveries += await consumer.next_group()
    return deliveries


def save_queue_directory(server: RabbitMQServer) -> None:
    """Make a quorum queue that was just declared survive a kill of the broker.

    RabbitMQ writes the directory of its quorum queues twice a second (as in 3.10). If it is killed before, it finds no
    such member when it starts, creates an empty one, and never elects a leader for it.
    """
    server.evaluate("ok = dets:sync(ra_directory_reverse).")


def _with_channel(url: str, work: Any) -> Any:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        return work(connection.channel())
    finally:
        connection.close()
