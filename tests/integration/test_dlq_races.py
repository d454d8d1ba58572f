"""What two operators, a quick worker or a newer program can do to a replay: one effect, and no letter lost."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from tests.support.broker import message_count, raw_channel, take_all
from tests.support.database import fetch_rows, fetch_value
from tests.support.dlq import ACTOR, happenings, has_open, open_count, replay, states
from tests.support.event_log import Log, Row
from tests.support.worker import Wire, projections_match, publish, running_worker, until
from wallet.dead_letters.reading import DeadLetterId, NoSuchDeadLetter, StoredMessage, open_database, read_message
from wallet.dead_letters.replay import DiscardResult, Replay, ReplayResult, discard, remove_closed
from wallet.postgres.connections import Connection
from wallet.rabbitmq.connection import BrokerUnavailable
from wallet.rabbitmq.publisher import OutgoingMessage
from wallet.rabbitmq.topology import DEAD_LETTER_QUEUE, WORKER_QUEUE, Topology
from wallet.runtime.failpoints import configure_failpoints
from wallet.worker.dead_letters import keep
from wallet.worker.messages import RefusedMessage


@pytest.fixture(params=["rabbitmq", "journal"])
def wire(request: pytest.FixtureRequest, database_url: str) -> Wire:
    """Each of the two transports in turn."""
    has_broker = request.param == "rabbitmq"
    return Wire(database_url, request.getfixturevalue("rabbitmq_url") if has_broker else None)


@pytest.fixture(autouse=True)
def no_failpoints() -> Iterator[None]:
    """Switches off what a test switched on."""
    yield
    configure_failpoints("")


class Interrupted:
    """A route on which something happens to the letter just when its message was brought."""

    is_direct = False

    def __init__(self, connection: Connection, *, error: str = "", failure: Exception | None = None) -> None:
        self._connection = connection
        self._error = error
        self._failure = failure
        self.brought: list[bytes] = []

    async def bring(self, message: StoredMessage) -> bool:
        """Fail as asked: the worker refuses the message at once, or the broker goes away."""
        if self._failure is not None:
            raise self._failure
        self.brought.append(message.body)
        if self._error:
            await keep(self._connection, [RefusedMessage(message, self._error)])
        return True


async def keep_poison(connection: Connection, *bodies: bytes) -> None:
    await keep(connection, [RefusedMessage(OutgoingMessage(body, None, None), "no good") for body in bodies])


async def break_deposits(wire: Wire, count: int) -> list[Row]:
    configure_failpoints("worker.before_commit=raise")
    async with Log.open(wire.database_url) as log, wire.worker():
        for number in range(count):
            log.deposit(f"wallet-{number}", 1)
        rows = await log.commit()
        await wire.deliver(rows)
        await until(has_open, wire, len(rows))
    configure_failpoints("")
    return rows


async def test_a_message_that_fails_again_before_its_letter_is_marked_stays_open(database_url: str) -> None:
    async with open_database(database_url) as connection:
        await keep_poison(connection, b"poison")
        route = Interrupted(connection, error="still no good")
        (replayed,) = [each async for each in Replay(connection, route, actor=ACTOR).run([DeadLetterId(1)])]
    assert replayed.result is ReplayResult.FAILED_AGAIN
    assert await states(Wire(database_url, None)) == ["open"]
    [letter] = await fetch_rows(database_url, "select error, attempts, actor from dead_letters")
    assert tuple(letter) == ("still no good", 2, None)
    assert await happenings(Wire(database_url, None), 1) == ["opened", "replay failed"]


async def test_a_message_that_fails_after_its_letter_was_closed_opens_it_again(database_url: str) -> None:
    async with open_database(database_url) as connection:
        await keep_poison(connection, b"replayed", b"discarded")
        ids = {(await read_message(connection, DeadLetterId(number))).body: DeadLetterId(number) for number in (1, 2)}
        replaying = Replay(connection, Interrupted(connection), actor=ACTOR, patience_seconds=0)
        assert [each.result async for each in replaying.run([ids[b"replayed"]])] == [ReplayResult.PUBLISHED]
        await discard(connection, ids[b"discarded"], actor=ACTOR, reason="no use")
        await keep_poison(connection, b"replayed", b"discarded")
    wire = Wire(database_url, None)
    assert await states(wire) == ["open", "open"]
    assert await happenings(wire, ids[b"replayed"]) == ["opened", "replayed", "opened"]
    assert await happenings(wire, ids[b"discarded"]) == ["opened", "discarded", "opened"]


async def test_what_was_not_reached_when_the_broker_went_away_is_untouched(database_url: str) -> None:
    async with open_database(database_url) as connection:
        await keep_poison(connection, b"one", b"two")
        route = Interrupted(connection, failure=BrokerUnavailable("gone"))
        with pytest.raises(BrokerUnavailable):
            _ = [each async for each in Replay(connection, route, actor=ACTOR).run([DeadLetterId(1), DeadLetterId(2)])]
    assert await states(Wire(database_url, None)) == ["open", "open"]
    assert {row["attempts"] for row in await fetch_rows(database_url, "select attempts from dead_letters")} == {1}


async def test_a_replayed_letter_is_published_once_more_only_by_force(database_url: str) -> None:
    async with open_database(database_url) as connection:
        await keep_poison(connection, b"poison")
        route = Interrupted(connection)
        for is_forced, brought_count in ((False, 1), (False, 1), (True, 2)):
            replaying = Replay(connection, route, actor=ACTOR, is_forced=is_forced, patience_seconds=0)
            (replayed,) = [each async for each in replaying.run([DeadLetterId(1)])]
            assert replayed.result.is_replayed
            assert len(route.brought) == brought_count


async def test_many_replays_and_discards_at_once_leave_each_letter_closed_once_and_one_effect(wire: Wire) -> None:
    rows = await break_deposits(wire, 10)

    async def discard_last() -> DiscardResult:
        async with open_database(wire.database_url) as connection:
            _, found = await discard(connection, DeadLetterId(1), actor="bob", reason="enough", is_forced=True)
            if wire.rabbitmq_url is not None:
                await remove_closed(connection, wire.rabbitmq_url)
            return found

    async with wire.worker():
        await asyncio.gather(*(replay(wire) for _ in range(4)), discard_last(), discard_last())
        if await fetch_value(wire.database_url, "select state from dead_letters where id = 1") == "discarded":
            await replay(wire, 1, is_forced=True)
        await until(projections_match, wire.database_url, rows)
        await until(has_open, wire, 0)


async def test_a_replay_goes_to_the_workers_queue_and_to_no_one_else(database_url: str, rabbitmq_url: str) -> None:
    wire = Wire(database_url, rabbitmq_url)
    rows = await break_deposits(wire, 1)
    async with raw_channel(rabbitmq_url) as channel:
        await channel.call(channel.pika.queue_declare, queue="another team")
        await channel.call(channel.pika.queue_bind, queue="another team", exchange=Topology().exchange, routing_key="")
    await replay(wire, patience_seconds=0)
    assert await message_count(rabbitmq_url, "another team") == 0
    published = await take_all(rabbitmq_url, WORKER_QUEUE)
    expected = {(row.message().body, row.message().message_id, row.message().type, 2) for row in rows}
    assert {(body, each.message_id, each.type, each.delivery_mode) for each, body in published} == expected
    assert await message_count(rabbitmq_url, DEAD_LETTER_QUEUE) == 0


async def test_what_the_broker_wrote_beside_a_message_is_not_published_again(
    database_url: str, rabbitmq_url: str
) -> None:
    wire = Wire(database_url, rabbitmq_url)
    headers = {"x-death": [{"count": 1}], "x-delivery-count": 3, "x-first-death-queue": "q", "source": {"n": 2**70}}
    async with open_database(database_url) as connection:
        await keep(
            connection, [RefusedMessage(OutgoingMessage(b"poison", "é" * 300, "\x00" * 255, headers), "no good")]
        )
    await replay(wire, patience_seconds=0)
    ((properties, body),) = await take_all(rabbitmq_url, WORKER_QUEUE)
    assert body == b"poison"
    assert properties.headers == {"source": {"n": str(2**70)}, "x-delivery-count": 0}  # The queue's own count.
    assert (properties.message_id, properties.type) == ("é" * 127, "�" * 85)


async def test_an_event_of_a_newer_program_takes_effect_by_a_replay_after_the_upgrade(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Log.open(wire.database_url) as log:
        log.deposit("alice", 1)
        newer = log.pending.pop()
        await log.commit()
        await log.commit_newer(newer, event_type="FundsDeposited", schema_version=2)
        rows = [*log.rows, newer]
    messages: Sequence[Row | OutgoingMessage] = [*log.rows, as_newer(newer)]
    async with wire.worker():
        if wire.rabbitmq_url is not None:
            await publish(wire.rabbitmq_url, messages)
        await until(has_open, wire, 1)
        await until(projections_match, wire.database_url, log.rows)
        (before,) = await replay(wire)
        assert before.result is ReplayResult.FAILED_AGAIN
    [letter] = await fetch_rows(wire.database_url, "select kind, state from dead_letters")
    assert tuple(letter) == ("parked", "open")
    assert await fetch_rows(wire.database_url, "select event_id from processed_events where status = 'failed'") == []
    monkeypatch.setattr("wallet.wire.envelope.SCHEMA_VERSION", 2)
    async with running_worker(wire.database_url, wire.rabbitmq_url):
        (after,) = await replay(wire)
        assert after.result is ReplayResult.TOOK_EFFECT
        assert await projections_match(wire.database_url, rows)
    assert await open_count(wire) == 0


def as_newer(row: Row) -> OutgoingMessage:
    message = row.message()
    return OutgoingMessage(
        message.body.replace(b'"schemaVersion":1', b'"schemaVersion":2'), message.message_id, message.type
    )


async def test_a_letter_that_is_not_there_is_said_to_be_so(database_url: str) -> None:
    async with open_database(database_url) as connection:
        replaying = Replay(connection, Interrupted(connection), actor=ACTOR, patience_seconds=0)
        with pytest.raises(NoSuchDeadLetter, match="no dead letter 7"):
            _ = [each async for each in replaying.run([DeadLetterId(7)])]
        with pytest.raises(NoSuchDeadLetter, match="no dead letter 7"):
            await discard(connection, DeadLetterId(7), actor=ACTOR, reason="none")
