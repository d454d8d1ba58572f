"""Publishing: every event of a sealed batch reaches the queue, and only then is its batch marked."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from tests.support.broker import raw_channel, save_queue_directory, take_all
from tests.support.database import connected
from tests.support.rabbitmq import RabbitMQServer
from tests.support.relay import count_where, relay_settings, running_relay
from tests.support.unsealed_batches import InsertedBatch, insert_batch, insert_events
from tests.support.waiting import eventually
from wallet.postgres.connections import Connection
from wallet.postgres.lease import LeaseLost
from wallet.rabbitmq.connection import InvalidBrokerAddress
from wallet.rabbitmq.publisher import Publisher
from wallet.rabbitmq.topology import WORKER_QUEUE, Topology
from wallet.relay import leadership as term_module
from wallet.relay import publish as publish_module
from wallet.relay.lease import JOURNAL
from wallet.relay.publish import BatchPublisher
from wallet.relay.relay import run_relay
from wallet.relay.seal import seal_batches
from wallet.runtime.failpoints import configure_failpoints
from wallet.runtime.metrics import Metrics
from wallet.wire.envelope import Envelope, decode_envelope

METRICS = Metrics("relay")


@pytest.fixture(autouse=True)
def _no_failpoints_afterwards() -> Iterator[None]:
    yield
    configure_failpoints("")


async def published(connection: Connection, *batches: InsertedBatch) -> bool:
    """Whether all these batches are marked; a condition to wait for."""
    count = await connection.fetchval(
        "select count(*) from journal where published_at is not null and batch_id = any ($1::uuid[])",
        [batch.batch_id for batch in batches],
    )
    return bool(count == len(batches))


async def envelopes(rabbitmq_url: str) -> list[Envelope]:
    return [decode_envelope(body) for _, body in await take_all(rabbitmq_url, WORKER_QUEUE)]


async def test_each_event_is_one_message_in_the_order_of_the_journal(
    database_url: str, rabbitmq_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_module, "WINDOW_SIZE", 4)
    monkeypatch.setattr(publish_module, "EVENTS_MAX", 10)
    async with connected(database_url) as connection:
        batches = [await insert_batch(connection, count) for count in (1, 3, 25, 0, 7)]
        async with running_relay(relay_settings(database_url, rabbitmq_url, tmp_path)):
            await eventually(lambda: published(connection, *batches))
        rows = await connection.fetch(
            "select event_id, type, schema_version, occurred_at, wallet_id, version, position, payload ->> 'requestId'"
            " from events join journal using (batch_id) order by position, ordinal"
        )
    received = await envelopes(rabbitmq_url)
    assert [
        (
            envelope.event_id,
            envelope.type,
            envelope.schema_version,
            envelope.occurred_at,
            envelope.wallet_id,
            envelope.version,
            envelope.position,
            envelope.payload["requestId"],
        )
        for envelope in received
    ] == [tuple(row) for row in rows]
    assert [envelope.event_id for envelope in received] == [event for batch in batches for event in batch.event_ids]


async def test_a_message_carries_its_event_id_and_type(database_url: str, rabbitmq_url: str, tmp_path: Path) -> None:
    async with connected(database_url) as connection:
        batch = await insert_batch(connection)
        async with running_relay(relay_settings(database_url, rabbitmq_url, tmp_path)):
            await eventually(lambda: published(connection, batch))
    [(properties, _)] = await take_all(rabbitmq_url, WORKER_QUEUE)
    assert (properties.message_id, properties.type) == (str(batch.event_ids[0]), "FundsDeposited")


async def test_a_crash_between_confirm_and_mark_publishes_the_same_events_again(
    database_url: str, rabbitmq_url: str, tmp_path: Path
) -> None:
    configure_failpoints("relay.before_mark=raise@1")
    async with connected(database_url) as connection:
        batch = await insert_batch(connection, 5)
        async with running_relay(relay_settings(database_url, rabbitmq_url, tmp_path)):
            await eventually(lambda: published(connection, batch))
    received = Counter(envelope.event_id for envelope in await envelopes(rabbitmq_url))
    assert received == Counter(dict.fromkeys(batch.event_ids, 2))


async def test_a_relay_killed_before_its_confirms_loses_no_event(
    database_url: str, rabbitmq_url: str, tmp_path: Path
) -> None:
    configure_failpoints("relay.after_publish=raise@1")
    async with connected(database_url) as connection:
        batch = await insert_batch(connection, 5)
        async with running_relay(relay_settings(database_url, rabbitmq_url, tmp_path)):
            await eventually(lambda: published(connection, batch))
    assert {envelope.event_id for envelope in await envelopes(rabbitmq_url)} == set(batch.event_ids)


async def test_a_zombie_may_publish_duplicates_but_never_marks(database_url: str, rabbitmq_url: str) -> None:
    async with (
        connected(database_url) as connection,
        Publisher.open(rabbitmq_url, Topology(), name="test") as publisher,
    ):
        batch = await insert_batch(connection, 2)
        leader = await JOURNAL.take(connection, "leader")
        assert leader is not None
        await seal_batches(connection, leader, is_published=False)
        with pytest.raises(LeaseLost):
            await BatchPublisher(publisher, replace(leader, token=leader.token - 1), METRICS).publish_round(connection)
        assert not await published(connection, batch)
        await BatchPublisher(publisher, leader, METRICS).publish_round(connection)
        assert await published(connection, batch)
    received = Counter(envelope.event_id for envelope in await envelopes(rabbitmq_url))
    assert received == Counter(dict.fromkeys(batch.event_ids, 2))


async def test_an_event_that_no_queue_takes_is_not_marked_until_one_does(
    database_url: str, rabbitmq_url: str, tmp_path: Path
) -> None:
    async with connected(database_url) as connection:
        with capture_logs() as logs:
            async with running_relay(relay_settings(database_url, rabbitmq_url, tmp_path)):
                first = await insert_batch(connection)
                await eventually(lambda: published(connection, first))
                async with raw_channel(rabbitmq_url) as channel:
                    await channel.call(channel.pika.queue_delete, queue=WORKER_QUEUE)
                second = await insert_batch(connection, 3)
                await eventually(lambda: published(connection, second))
    refusals = [log for log in logs if log["event"] == "broker_unavailable"]
    assert [log["kind"] for log in refusals] == ["NotPublished"]
    assert "3 events" in refusals[0]["error"]
    assert "NO_ROUTE" in refusals[0]["error"]
    assert {envelope.event_id for envelope in await envelopes(rabbitmq_url)} == set(second.event_ids)


async def test_a_batch_whose_events_are_not_all_visible_waits_and_the_others_do_not(
    database_url: str, rabbitmq_url: str, tmp_path: Path
) -> None:
    async with connected(database_url) as connection:
        short = await insert_batch(connection, 4, visible_count=3)
        whole = await insert_batch(connection, 2)
        async with running_relay(relay_settings(database_url, rabbitmq_url, tmp_path)):
            await eventually(lambda: published(connection, whole))
            later = await insert_batch(connection)
            await eventually(lambda: published(connection, later))
            assert not await published(connection, short)
            await insert_events(connection, short, 3, 4)
            await eventually(lambda: published(connection, short))
    assert [envelope.event_id for envelope in await envelopes(rabbitmq_url)] == [
        *whole.event_ids,
        *later.event_ids,
        *short.event_ids,
    ]


async def test_a_broker_address_that_cannot_be_read_ends_the_relay_at_start(database_url: str, tmp_path: Path) -> None:
    settings = relay_settings(database_url, "amqp://guest:s3cret@host/?heartbeat=soon", tmp_path)
    with pytest.raises(InvalidBrokerAddress) as refused:
        await run_relay(settings, METRICS, asyncio.Event())
    assert "RABBITMQ_URL" in str(refused.value)
    assert "s3cret" not in str(refused.value)


@pytest.mark.slow
async def test_sealing_goes_on_while_the_broker_is_away_and_the_backlog_drains_when_it_is_back(
    database_url: str, rabbitmq_server: RabbitMQServer, rabbitmq_url: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(rabbitmq_server.stop)
    async with (
        connected(database_url) as connection,
        running_relay(relay_settings(database_url, rabbitmq_url, tmp_path)),
    ):
        batches = [await insert_batch(connection, 2) for _ in range(3)]
        await eventually(lambda: count_where(connection, "position = 3"))
        await asyncio.to_thread(rabbitmq_server.start)
        await eventually(lambda: published(connection, *batches), within=30)
        await asyncio.to_thread(save_queue_directory, rabbitmq_server)
        await asyncio.to_thread(rabbitmq_server.kill)
        batches += [await insert_batch(connection, 2) for _ in range(3)]
        await eventually(lambda: count_where(connection, "position = 6"))
        await asyncio.to_thread(rabbitmq_server.start)
        await eventually(lambda: published(connection, *batches), within=30)
    received: set[UUID] = {envelope.event_id for envelope in await envelopes(rabbitmq_url)}
    assert received == {event_id for batch in batches for event_id in batch.event_ids}


async def test_a_blocked_broker_pauses_publishing_and_not_sealing(
    database_url: str, rabbitmq_server: RabbitMQServer, rabbitmq_url: str, tmp_path: Path
) -> None:
    async with connected(database_url) as connection:
        with capture_logs() as logs:
            async with running_relay(relay_settings(database_url, rabbitmq_url, tmp_path)):
                await eventually(lambda: "broker_connected" in [log["event"] for log in logs])
                await asyncio.to_thread(rabbitmq_server.ctl, "set_vm_memory_high_watermark", "0")
                try:
                    batches = [await insert_batch(connection)]
                    await eventually(lambda: "broker_blocked" in [log["event"] for log in logs])
                    batches.append(await insert_batch(connection))
                    await eventually(lambda: count_where(connection, "position = 2"))
                    assert await count_where(connection, "published_at is not null") == 0
                finally:
                    await asyncio.to_thread(rabbitmq_server.ctl, "set_vm_memory_high_watermark", "0.6")
                await eventually(lambda: published(connection, *batches))
    assert "broker_unavailable" not in [log["event"] for log in logs]


async def test_a_relay_stops_soon_while_the_broker_is_blocked(
    database_url: str,
    rabbitmq_server: RabbitMQServer,
    rabbitmq_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(term_module, "STOP_SECONDS", 0.2)
    await asyncio.to_thread(rabbitmq_server.ctl, "set_vm_memory_high_watermark", "0")
    try:
        async with connected(database_url) as connection:
            with capture_logs() as logs:
                async with running_relay(relay_settings(database_url, rabbitmq_url, tmp_path)):
                    await insert_batch(connection)
                    await eventually(lambda: "broker_blocked" in [log["event"] for log in logs])
            assert "lease_released" in [log["event"] for log in logs]
    finally:
        await asyncio.to_thread(rabbitmq_server.ctl, "set_vm_memory_high_watermark", "0.6")


async def test_a_queue_with_other_arguments_stops_publishing_with_its_cure_and_not_sealing(
    database_url: str, rabbitmq_url: str, tmp_path: Path
) -> None:
    async with raw_channel(rabbitmq_url) as channel:
        await channel.call(channel.pika.queue_declare, queue=WORKER_QUEUE, durable=True)
    async with connected(database_url) as connection:
        with capture_logs() as logs:
            async with running_relay(relay_settings(database_url, rabbitmq_url, tmp_path)):
                batch = await insert_batch(connection)
                await eventually(lambda: count_where(connection, "position = 1"))
                await eventually(lambda: "TopologyMismatch" in [log.get("kind") for log in logs])
                async with raw_channel(rabbitmq_url) as channel:
                    await channel.call(channel.pika.queue_delete, queue=WORKER_QUEUE)
                await eventually(lambda: published(connection, batch))
    assert [log["error"] for log in logs if "rename it" in str(log.get("error"))]
