"""`wallet dlq` with real processes on both transports: what is kept is seen, comes back once, or is closed for good."""

import asyncio
import json
from uuid import UUID

import pytest

from tests.support.broker import message_count, raw_channel, take_all
from tests.support.database import fetch_rows
from tests.support.dlq import Operator, ended, happenings, has_open, states
from tests.support.event_log import Log, Row
from tests.support.processes import Processes
from tests.support.worker import Wire, projections_match, publish, until
from wallet.rabbitmq.publisher import OutgoingMessage
from wallet.rabbitmq.topology import DEAD_LETTER_QUEUE

BROKEN = "worker.before_commit=raise"
FIVE_MIB = 5 * 1024 * 1024


@pytest.fixture(params=["rabbitmq", "journal"])
def operator(request: pytest.FixtureRequest, database_url: str, processes: Processes) -> Operator:
    """An operator of each of the two transports in turn."""
    has_broker = request.param == "rabbitmq"
    return Operator(processes, Wire(database_url, request.getfixturevalue("rabbitmq_url") if has_broker else None))


@pytest.fixture
def rabbitmq_operator(database_url: str, rabbitmq_url: str, processes: Processes) -> Operator:
    """An operator of the transport over RabbitMQ."""
    return Operator(processes, Wire(database_url, rabbitmq_url))


def changed(row: Row, **fields: object) -> OutgoingMessage:
    """The row's message with some fields of its body changed, or left out where the new value is None."""
    message = row.message()
    body = json.loads(message.body) | fields
    kept = {name: value for name, value in body.items() if value is not None}
    return OutgoingMessage(json.dumps(kept).encode(), message.message_id, message.type)


async def break_two_deposits(operator: Operator) -> list[Row]:
    """Two wallets' first deposits, four events, all of which fail for a bug in the handlers."""
    wire = operator.wire
    worker = operator.start_worker(BROKEN)
    async with Log.open(wire.database_url) as log:
        log.deposit("alice", 1)
        log.deposit("bob", 2)
        rows = await log.commit()
        await wire.deliver(rows)
        await until(has_open, wire, len(rows))
    await asyncio.to_thread(worker.stop)
    return rows


async def test_poison_is_listed_with_its_reason_the_rest_flows_and_listing_loses_nothing(
    rabbitmq_operator: Operator,
) -> None:
    operator, wire = rabbitmq_operator, rabbitmq_operator.wire
    assert wire.rabbitmq_url is not None
    operator.start_worker()
    async with Log.open(wire.database_url) as log:
        log.deposit("alice", 1)
        log.deposit("bob", 2)
        rows = await log.commit()
    deposit = rows[1]
    poison = {
        "JSON is malformed": OutgoingMessage(b"\xff\x00 not JSON", None, None),
        "type is 'WalletFrozen'": changed(deposit, type="WalletFrozen"),
        "schemaVersion is 2": changed(deposit, schemaVersion=2),
        "missing required field `walletId`": changed(deposit, walletId=None),
        "The body has 5242880 bytes": OutgoingMessage(b" " * FIVE_MIB, str(UUID(int=7)), "FundsDeposited"),
    }
    await publish(wire.rabbitmq_url, [rows[0], *poison.values(), *rows[1:]])
    await wire.matches(rows)
    await until(has_open, wire, len(poison))
    listed = await operator.letters()
    found = {reason: letter for reason in poison for letter in listed if reason in letter["error"]}
    assert found.keys() == poison.keys()
    assert {reason for reason, letter in found.items() if letter["kind"] == "parked"} == {
        "type is 'WalletFrozen'",
        "schemaVersion is 2",
    }
    for _ in range(30):
        async with raw_channel(wire.rabbitmq_url) as channel:
            channel.send(channel.pika.basic_get, queue=DEAD_LETTER_QUEUE, callback=lambda *_message: None)
    for letter in listed:
        shown = await operator.dlq("show", str(letter["id"]))
        assert shown.code == 0
        assert letter["error"] in shown
    assert await operator.letters() == listed
    assert await has_open(wire, len(poison))
    bodies = sorted(body for _, body in await take_all(wire.rabbitmq_url, DEAD_LETTER_QUEUE))
    assert bodies == sorted(message.body for message in poison.values())


async def test_after_the_fix_a_replay_takes_effect_once_also_when_called_twice_or_at_once(operator: Operator) -> None:
    wire = operator.wire
    rows = await break_two_deposits(operator)
    operator.start_worker()
    first, *others = [str(letter["id"]) for letter in await operator.letters()]
    replayed = await operator.dlq("replay", first, "--actor", "ann")
    assert replayed.code == 0
    assert "took effect" in replayed
    again = await operator.dlq("replay", first)
    assert again.code == 0
    assert "was replayed already by ann" in again
    at_once = [operator.begin("replay", "--all", failpoints="dlq.before_mark=delay:300") for _ in range(2)]
    said = [await ended(process) for process in at_once]
    assert [each.code for each in said] == [0, 0], said
    await until(projections_match, wire.database_url, rows)
    await until(has_open, wire, 0)
    assert await states(wire) == ["replayed"] * len(rows)
    for dead_letter_id in others:
        assert await happenings(wire, int(dead_letter_id)) == ["opened", "replayed"]
    everything = await operator.dlq("replay", "--all")
    assert (everything.code, everything.output) == (0, "no open dead letters\n")
    assert await projections_match(wire.database_url, rows)


async def test_a_replay_before_the_fix_fails_again_and_says_so(operator: Operator) -> None:
    wire = operator.wire
    rows = await break_two_deposits(operator)
    letter = (await operator.letters())[0]
    if wire.rabbitmq_url is not None:
        operator.start_worker(BROKEN)
    failed = await operator.dlq("replay", str(letter["id"]), failpoints=BROKEN)
    assert failed.code == 1
    assert "failed again" in failed
    assert "FailpointRaised: worker.before_commit" in failed
    await until(has_open, wire, len(rows))
    now = (await operator.letters())[0]
    assert (now["id"], now["attempts"]) == (letter["id"], letter["attempts"] + 3)
    history = ["opened", "replay failed"] if wire.rabbitmq_url is None else ["opened", "replayed", "opened"]
    assert await happenings(wire, letter["id"]) == history


async def test_a_discard_wants_a_reason_and_closes_the_letter_for_good(operator: Operator) -> None:
    wire = operator.wire
    rows = await break_two_deposits(operator)
    dead_letter_id = str((await operator.letters())[0]["id"])
    for arguments in ([], ["--reason", ""], ["--reason", " \t"]):
        refused = await operator.dlq("discard", dead_letter_id, *arguments)
        assert refused.code == 2
        assert "--reason" in refused
    assert await has_open(wire, len(rows))
    without_effect = await operator.dlq("discard", dead_letter_id, "--reason", "a test order")
    assert without_effect.code == 1
    assert "its event is in the log and has had no effect" in without_effect
    assert f"wallet dlq replay {dead_letter_id}" in without_effect
    assert "wallet rebuild" in without_effect
    assert await has_open(wire, len(rows))
    discarded = await operator.dlq("discard", dead_letter_id, "--reason", "a test order", "--actor", "ann", "--force")
    assert discarded.code == 0
    assert await has_open(wire, len(rows) - 1)
    shown = await operator.dlq("show", dead_letter_id)
    assert "discarded by ann: a test order" in shown
    replayed = await operator.dlq("replay", dead_letter_id)
    assert replayed.code == 1
    assert "was discarded by ann" in replayed
    again = await operator.dlq("discard", dead_letter_id, "--reason", "once more")
    assert again.code == 0
    assert "was discarded already by ann" in again
    assert await has_open(wire, len(rows) - 1)


async def test_a_discard_is_taken_back_by_force(operator: Operator) -> None:
    wire = operator.wire
    rows = await break_two_deposits(operator)
    dead_letter_id = str((await operator.letters())[0]["id"])
    assert (await operator.dlq("discard", dead_letter_id, "--reason", "by mistake", "--force")).code == 0
    operator.start_worker()
    assert (await operator.dlq("replay", "--all")).code == 0
    forced = await operator.dlq("replay", dead_letter_id, "--force")
    assert forced.code == 0
    assert "took effect" in forced
    await until(projections_match, wire.database_url, rows)


async def test_killed_between_bringing_a_message_and_marking_it_a_second_replay_has_no_second_effect(
    operator: Operator,
) -> None:
    wire = operator.wire
    rows = await break_two_deposits(operator)
    operator.start_worker()
    killed = await operator.dlq("replay", "--all", failpoints="dlq.before_mark=kill@3")
    assert killed.code < 0
    assert (await states(wire)).count("open") == 2
    assert (await operator.dlq("replay", "--all")).code == 0
    await until(projections_match, wire.database_url, rows)
    await until(has_open, wire, 0)


async def test_killed_before_the_messages_left_the_dead_letter_queue_the_next_command_takes_them_out(
    rabbitmq_operator: Operator,
) -> None:
    operator, wire = rabbitmq_operator, rabbitmq_operator.wire
    assert wire.rabbitmq_url is not None
    rows = await break_two_deposits(operator)
    operator.start_worker()
    killed = await operator.dlq("replay", "--all", failpoints="dlq.before_remove=kill")
    assert killed.code < 0
    await until(projections_match, wire.database_url, rows)
    assert await message_count(wire.rabbitmq_url, DEAD_LETTER_QUEUE) == len(rows)
    again = await operator.dlq("replay", "1")
    assert "was replayed already" in again
    assert f"{len(rows)} messages taken out of {DEAD_LETTER_QUEUE}" in again
    assert await has_open(wire, 0)
    assert await projections_match(wire.database_url, rows)


async def test_a_letter_whose_event_took_effect_all_the_same_says_so_and_a_replay_closes_it(
    rabbitmq_operator: Operator,
) -> None:
    """The worker dies between the commit of the dead letter and the NACK; its successor has the bug no more."""
    operator, wire = rabbitmq_operator, rabbitmq_operator.wire
    worker = operator.start_worker(f"{BROKEN},worker.before_ack=kill")
    async with Log.open(wire.database_url) as log:
        log.deposit("alice", 1)
        rows = await log.commit()
    await wire.deliver(rows)
    await asyncio.to_thread(worker.wait)
    operator.start_worker()
    await until(projections_match, wire.database_url, rows)
    listed = await operator.dlq("list")
    assert listed.output.count("took effect") == len(rows)
    assert "Its event took effect, so nothing is missing" in await operator.dlq("show", "1")
    replayed = await operator.dlq("replay", "--all")
    assert replayed.code == 0
    assert "had taken effect before" in replayed
    assert await states(wire) == ["replayed"] * len(rows)
    assert await projections_match(wire.database_url, rows)
    statuses = await fetch_rows(wire.database_url, "select status, count(*) from processed_events group by status")
    assert [tuple(row) for row in statuses] == [("success", len(rows))]
