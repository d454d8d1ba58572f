"""The real processes from HTTP to the worker's row, on RabbitMQ and on the embedded transport."""

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import pika
import pika.exceptions

from tests.acceptance.conftest import System
from tests.support.books import assert_books_are_right, assert_pipeline_is_quiet_and_right
from tests.support.broker import save_queue_directory
from tests.support.client import Client, open_client, random_load, send_random_operations
from tests.support.database import fetch_rows, fetch_value
from tests.support.rabbitmq import RabbitMQServer
from tests.support.waiting import eventually, eventually_blocking

FINAL_STATUSES = {201, 400, 404}


@contextmanager
def a_queue_of_our_own(rabbitmq_url: str) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
    """Another team's queue behind the exchange, bound before anything is published."""
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_url))
    channel = connection.channel()
    eventually_blocking(lambda: exchange_is_there(connection))
    channel.queue_declare("another-team")
    channel.queue_bind("another-team", "wallet.events")
    yield channel
    connection.close()


def exchange_is_there(connection: pika.BlockingConnection) -> bool:
    try:
        connection.channel().exchange_declare("wallet.events", passive=True)
    except pika.exceptions.ChannelClosedByBroker:
        return False
    return True


async def test_a_deposits_event_is_followed_from_the_answer_to_wallet_stats(rabbitmq_system: System) -> None:
    api = rabbitmq_system.start_api()
    rabbitmq_system.start_relay()
    rabbitmq_system.start_worker()
    assert rabbitmq_system.rabbitmq_url is not None
    with a_queue_of_our_own(rabbitmq_system.rabbitmq_url) as channel:
        async with open_client(api.url) as client:
            answer = (await client.post("/wallet/alice/deposit", {"amount": 12.5, "requestId": "r1"})).json()
            history = await client.get("/wallet/alice/history")
            await assert_pipeline_is_quiet_and_right(rabbitmq_system.database_url)
            stats = await client.get("/wallet/alice/stats")
        messages = [take_message(channel) for _ in range(2)]
    assert answer == {"walletId": "alice", "balance": "12.5000", "requestId": "r1", "created": True}
    deposited = next(event for event in history if event["type"] == "FundsDeposited")
    row = await fetch_deposit(rabbitmq_system.database_url)
    assert str(row["event_id"]) == deposited["id"]
    assert (row["position"], row["published"], row["processed"]) == (1, True, "success")
    assert row["operation_request_id"] == "r1"
    assert row["audit_status"] == 201
    properties, body = next(message for message in messages if message[0].type == "FundsDeposited")
    assert properties.message_id == body["id"] == deposited["id"]
    assert properties.delivery_mode == 2
    assert (body["version"], body["position"], body["payload"]["newBalance"]) == (2, 1, "12.5000")
    assert body["occurredAt"] == deposited["occurredAt"] == stats["lastActivityAt"]
    assert stats["totalDeposited"] == "12.5000"


def take_message(channel: pika.adapters.blocking_connection.BlockingChannel) -> tuple[pika.BasicProperties, dict]:  # type: ignore[type-arg]
    found = eventually_blocking(
        lambda: next((got for got in [channel.basic_get("another-team", auto_ack=True)] if got[0] is not None), None)
    )
    return found[1], json.loads(found[2])


async def fetch_deposit(database_url: str) -> asyncpg.Record:
    row, *_ = await fetch_rows(
        database_url,
        """
        select e.event_id, j.position, j.published_at is not null as published, p.status as processed,
            o.request_id as operation_request_id, a.status as audit_status
        from events e
        join journal j using (batch_id)
        join operations o using (bucket, wallet_id, batch_id)
        join api_audit a on a.bucket = e.bucket and a.api_audit_id = e.api_audit_id
        join processed_events p on p.bucket = e.bucket and p.event_id = e.event_id
        where e.type = 'FundsDeposited'
        """,
    )
    return row


async def test_a_thousand_random_operations_leave_right_books_and_totals(system: System, seed: int) -> None:
    apis = [system.start_api(), system.start_api()]
    system.start_relay()
    system.start_worker()
    async with open_client(*(api.url for api in apis)) as client:
        statuses = await send_random_operations(client, seed=seed, count=1000, concurrency=100)
        assert set(statuses) <= FINAL_STATUSES, statuses
        assert set(client.seen) <= FINAL_STATUSES, client.seen
    assert statuses[201] > 500
    await assert_pipeline_is_quiet_and_right(system.database_url)
    await assert_books_are_right(system.database_url)


async def test_the_same_key_at_two_apis_has_one_effect_and_one_answer(system: System) -> None:
    apis = [system.start_api(), system.start_api()]
    async with open_client(*(api.url for api in apis)) as client:
        body = {"amount": "7", "requestId": "same"}
        answers = await asyncio.gather(
            *(client.post("/wallet/alice/deposit", body, first_url=number) for number in range(200))
        )
        other = await client.post("/wallet/alice/deposit", {"amount": "8", "requestId": "same"})
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    assert (other.status, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await fetch_value(system.database_url, "select balance::text from wallets") == "7.0000"
    await assert_books_are_right(system.database_url)


async def test_every_process_may_be_stopped_and_started_under_load(system: System, seed: int) -> None:
    steady, api = system.start_api(), system.start_api()
    relay, worker = system.start_relay(), system.start_worker()
    async with open_client(steady.url, api.url) as client:
        async with random_load(client, seed=seed) as statuses:
            for process, start in (
                (api, system.start_api),
                (relay, system.start_relay),
                (worker, system.start_worker),
            ):
                await client.more_answers(200)
                assert await asyncio.to_thread(process.stop, signal.SIGTERM) == 0
                await asyncio.to_thread(start)
        # A request whose bytes were read gets its answer; one refused before that is sent again elsewhere.
        assert set(statuses) <= FINAL_STATUSES, statuses
        assert {seen for seen in client.seen if isinstance(seen, int)} <= FINAL_STATUSES, client.seen
    await assert_pipeline_is_quiet_and_right(system.database_url)
    await assert_books_are_right(system.database_url)


async def test_a_killed_process_loses_nothing_that_was_answered(system: System, seed: int) -> None:
    steady, api = system.start_api(), system.start_api()
    relay, worker = system.start_relay(), system.start_worker()
    async with open_client(steady.url, api.url) as client:
        async with random_load(client, seed=seed) as statuses:
            for process, start in (
                (worker, system.start_worker),
                (relay, system.start_relay),
                (api, system.start_api),
            ):
                await client.more_answers(150)
                process.kill()
                await asyncio.to_thread(start)
        assert set(statuses) <= FINAL_STATUSES, statuses
    await assert_pipeline_is_quiet_and_right(system.database_url)
    await assert_books_are_right(system.database_url)


async def test_an_api_killed_in_the_middle_of_a_stepwise_transfer_is_relieved_by_another(system: System) -> None:
    dying = system.start_api(TRANSFER_MODE="stepwise", WALLET_FAILPOINTS="saga.after_debit=kill")
    async with open_client(dying.url) as client:
        await client.post("/wallet/alice/deposit", {"amount": 100})
        send = asyncio.create_task(
            client.post_once(
                "/wallet/alice/transfer", {"amount": 40, "toWalletId": "bob", "requestId": "t"}, url=dying.url
            )
        )
        await asyncio.wait([send])
        assert send.exception() is not None
    assert await fetch_value(system.database_url, "select status from transfers") == "debited"
    relief = system.start_api(TRANSFER_MODE="stepwise")
    system.start_relay()
    system.start_worker()

    async def is_completed() -> bool:
        return bool(await fetch_value(system.database_url, "select status from transfers") == "completed")

    await eventually(is_completed, within=20)
    async with open_client(relief.url) as client:
        answer = await client.post("/wallet/alice/transfer", {"amount": 40, "toWalletId": "bob", "requestId": "t"})
    assert (answer.status, answer.headers["Idempotency-Replayed"]) == (201, "true")
    assert answer.json()["toBalance"] == "40.0000"
    await assert_pipeline_is_quiet_and_right(system.database_url)
    await assert_books_are_right(system.database_url)


async def test_the_api_does_not_care_whether_the_broker_is_there(
    rabbitmq_system: System, rabbitmq_server: RabbitMQServer, seed: int
) -> None:
    await asyncio.to_thread(rabbitmq_server.stop)
    api = rabbitmq_system.start_api()
    settings = {"DATABASE_URL": rabbitmq_system.database_url, "RABBITMQ_URL": str(rabbitmq_system.rabbitmq_url)}
    for command in ("relay", "worker"):
        rabbitmq_system.processes.start(command, settings=settings)
    async with open_client(api.url) as client:
        await send(client, seed, count=300)
        await asyncio.to_thread(rabbitmq_server.start)
        await assert_pipeline_is_quiet_and_right(rabbitmq_system.database_url)
        async with random_load(client, seed=seed + 1, concurrency=20) as statuses:
            await client.more_answers(200)
            await asyncio.to_thread(save_queue_directory, rabbitmq_server)
            await asyncio.to_thread(rabbitmq_server.kill)
            await asyncio.to_thread(rabbitmq_server.start)
        assert set(statuses) <= FINAL_STATUSES | {422}, statuses
    await assert_pipeline_is_quiet_and_right(rabbitmq_system.database_url)
    await assert_books_are_right(rabbitmq_system.database_url)


async def send(client: Client, seed: int, *, count: int) -> None:
    statuses = await send_random_operations(client, seed=seed, count=count, concurrency=50)
    assert set(statuses) <= FINAL_STATUSES | {422}, statuses
    assert {seen for seen in client.seen if isinstance(seen, int)} <= FINAL_STATUSES | {422}, client.seen
