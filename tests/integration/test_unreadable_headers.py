"""A message whose properties can't be read, or are huge, becomes a dead letter; those behind it are handled."""

import asyncio
import struct
import sys
import threading
from typing import Any

import pika
import pika.data
import pytest

from tests.support.database import fetch_value
from tests.support.processes import Processes
from tests.support.waiting import eventually
from wallet.rabbitmq.connection import connect
from wallet.rabbitmq.topology import Topology, declare

MIB = 1024 * 1024
MILLISECONDS = 1_764_000_000_000
"""As a timestamp in seconds, which AMQP means, it is the year 57868."""
STACK_BYTES = 256 * MIB


class Timestamp(int):
    """A header value that is sent with AMQP's type for times."""


def publish_raw(url: str, bodies: list[bytes], headers: dict[str, Any]) -> None:
    """Publish as any program could, by pika itself."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    for body in bodies:
        channel.basic_publish(Topology().exchange, "", body, pika.BasicProperties(headers=headers))
    connection.close()


def publish_nested(url: str, body: bytes, depth: int) -> None:
    """Publish with tables within tables; to encode them needs a deep stack."""
    headers: dict[str, Any] = {}
    for _ in range(depth):
        headers = {"a": headers}
    limit, size = sys.getrecursionlimit(), threading.stack_size(STACK_BYTES)
    sys.setrecursionlimit(50 * depth)
    try:
        thread = threading.Thread(target=publish_raw, args=(url, [body], headers))
        thread.start()
        thread.join()
    finally:
        sys.setrecursionlimit(limit)
        threading.stack_size(size)


async def declare_topology(url: str) -> None:
    connection = await connect(url, name="test")
    await declare(await connection.open_channel(), Topology())
    await connection.close()


async def dead_letter_count(database_url: str) -> int:
    count = await fetch_value(database_url, "select count(*) from dead_letters")
    return int(count)


@pytest.mark.parametrize("kind", ["a time in milliseconds", "900 nested tables", "3,000 nested tables"])
async def test_properties_that_cannot_be_read_block_nothing(
    kind: str, database_url: str, rabbitmq_url: str, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await declare_topology(rabbitmq_url)
    if kind == "a time in milliseconds":
        encode_value = pika.data.encode_value

        def encode(pieces: list[bytes], value: Any) -> int:
            if isinstance(value, Timestamp):
                pieces.append(b"T" + struct.pack(">Q", value))
                return 9
            return int(encode_value(pieces, value))

        with monkeypatch.context() as patch:
            patch.setattr(pika.data, "encode_value", encode)
            await asyncio.to_thread(publish_raw, rabbitmq_url, [b"first"], {"sentAt": Timestamp(MILLISECONDS)})
    else:
        await asyncio.to_thread(publish_nested, rabbitmq_url, b"first", 900 if kind.startswith("900") else 3000)
    await asyncio.to_thread(publish_raw, rabbitmq_url, [b"second"], {})
    worker = processes.start_worker(DATABASE_URL=database_url, RABBITMQ_URL=rabbitmq_url)

    async def are_dead_letters() -> bool:
        return await dead_letter_count(database_url) == 2

    await eventually(are_dead_letters)
    assert worker.stop() == 0
    assert worker.logs().count("consumer_connected") == 1


async def test_huge_headers_cost_the_worker_a_bounded_amount_of_memory(
    database_url: str, rabbitmq_url: str, processes: Processes
) -> None:
    await declare_topology(rabbitmq_url)
    headers = {f"{number:x}": True for number in range(18_000)}
    bodies = [b"%d" % number for number in range(200)]
    await asyncio.to_thread(publish_raw, rabbitmq_url, bodies, headers)
    worker = processes.start_worker(DATABASE_URL=database_url, RABBITMQ_URL=rabbitmq_url)

    async def are_dead_letters() -> bool:
        return await dead_letter_count(database_url) == len(bodies)

    await eventually(are_dead_letters, within=60)
    assert worker.peak_bytes() < 250 * MIB
    longest = await fetch_value(database_url, "select max(octet_length(headers::text)) from dead_letters")
    assert longest < 1024
    assert worker.stop() == 0
