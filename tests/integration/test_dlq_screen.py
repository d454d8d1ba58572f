"""What `wallet dlq` prints, and how it says what it can't do."""

import json
from collections.abc import Sequence
from typing import Final
from uuid import uuid4

import pytest

from tests.support.broker import message_count
from tests.support.database import fetch_rows
from tests.support.dlq import Operator, has_open, replay
from tests.support.event_log import Log, Row
from tests.support.ledger import deposit, running_ledger, send
from tests.support.processes import Processes
from tests.support.rabbitmq import RabbitMQServer
from tests.support.worker import Wire, publish, until
from tests.support.written_books import process_all, seal_all
from wallet.dead_letters.reading import open_database
from wallet.rabbitmq.publisher import OutgoingMessage
from wallet.rabbitmq.topology import DEAD_LETTER_QUEUE
from wallet.worker.dead_letters import keep
from wallet.worker.messages import RefusedMessage

NOWHERE = "127.0.0.1:1"
FIVE_MIB = 5 * 1024 * 1024


@pytest.fixture
def operator(database_url: str, processes: Processes) -> Operator:
    """An operator of the embedded transport."""
    return Operator(processes, Wire(database_url, None))


async def keep_letters(
    database_url: str, messages: Sequence[OutgoingMessage], error: str = "RaiseError: a bug"
) -> None:
    """Dead letters of these messages, their ids in this order."""
    async with open_database(database_url) as connection:
        for message in messages:
            await keep(connection, [RefusedMessage(message, error, 3)])


async def write_deposit(database_url: str) -> Row:
    async with Log.open(database_url) as log:
        log.deposit("alice", 100)
        return (await log.commit())[1]


async def test_the_list_shows_the_oldest_open_letters_and_how_many_more_there_are(operator: Operator) -> None:
    assert (await operator.dlq("list")).output == "no open dead letters\n"
    await keep_letters(
        operator.wire.database_url, [OutgoingMessage(f"{number}".encode(), None, None) for number in range(5)]
    )
    assert (await operator.dlq("discard", "2", "--reason", "a test")).code == 0
    said = await operator.dlq("list", "--limit", "2")
    header, first, second, more = said.output.splitlines()
    assert header.split()[0] == "id"
    assert (first.split()[0], second.split()[0]) == ("1", "3")
    assert first.endswith("RaiseError: a bug")
    assert more.startswith("… and 2 more")
    everything = json.loads((await operator.dlq("list", "--all", "--json", "--limit", "4")).output)
    assert [(letter["id"], letter["state"]) for letter in everything["letters"]] == [
        (1, "open"),
        (2, "discarded"),
        (3, "open"),
        (4, "open"),
    ]
    assert everything["notShown"] == 1
    assert (everything["letters"][1]["reason"], everything["letters"][0]["bodyBytes"]) == ("a test", 1)


async def test_a_letter_is_shown_with_its_history_its_event_and_where_they_differ(operator: Operator) -> None:
    deposit = await write_deposit(operator.wire.database_url)
    body = json.loads(deposit.message().body)
    body["payload"]["amount"] = "999999.0000"
    damaged = OutgoingMessage(
        json.dumps(body).encode(), deposit.message().message_id, "FundsDeposited", {"source": "a test"}
    )
    await keep_letters(operator.wire.database_url, [damaged])
    said = await operator.dlq("show", "1")
    assert said.code == 0
    for text in (
        "Dead letter 1: open",
        f"FundsDeposited  {deposit.event_id}",
        "alice, version 2",
        "RaiseError: a bug",
        "kept after 3 tries",
        'source: "a test"',
        "Event in the log",
        'payload.amount: the message has "999999.0000", the log has "100.0000"',
        "wallet dlq replay 1",
    ):
        assert text in said
    assert "position: the message" not in said


async def test_a_body_of_five_mib_is_named_by_its_length_and_what_is_stored_is_written_on_request(
    operator: Operator,
) -> None:
    await keep_letters(operator.wire.database_url, [OutgoingMessage(b"x" * FIVE_MIB, None, None)])
    said = await operator.dlq("show", "1")
    assert "The body had 5,242,880 bytes. The first 1 MiB: wallet dlq show 1 --body > FILE" in said
    assert len(said.output) < 5_000
    assert (await operator.dlq("show", "1", "--body")).output == "x" * (1024 * 1024)
    replayed = await operator.dlq("replay", "1")
    assert (replayed.code, "failed again" in replayed.output) == (1, True)


async def test_what_comes_from_outside_can_not_act_on_the_terminal(operator: Operator) -> None:
    hostile = OutgoingMessage(b'{"type": "\\u001b[2J"}', "\x1b[2J", "\x1b[2J", {"\x1b[2J": "\x1b[2J"})
    await keep_letters(operator.wire.database_url, [hostile], error="RaiseError: \x1b[2J\n\x1b[2J")
    for arguments in (["list"], ["show", "1"], ["replay", "1"], ["discard", "1", "--reason", "\x1b[2J"]):
        assert "\x1b" not in await operator.dlq(*arguments)


@pytest.mark.parametrize("arguments", [["show", "7"], ["replay", "7"], ["discard", "7", "--reason", "none"]])
async def test_an_id_that_is_not_there_is_one_clear_line(operator: Operator, arguments: list[str]) -> None:
    said = await operator.dlq(*arguments)
    assert (said.code, said.output.count("\n")) == (2, 1)
    assert "There is no dead letter 7" in said


async def test_a_replay_needs_letters_or_all_of_them(operator: Operator) -> None:
    for arguments in ([], ["1", "--all"], ["--all", "--force"]):
        said = await operator.dlq("replay", *arguments)
        assert said.code == 2
        assert "Error" in said


async def test_without_a_database_each_command_says_so_in_one_line(operator: Operator, empty_database_url: str) -> None:
    absent = {"DATABASE_URL": f"postgresql://u:hunter2@{NOWHERE}/x"}
    for settings, code, reason in (
        (absent, 3, "The database can't be reached"),
        ({"DATABASE_URL": ""}, 2, "No database is named"),
        ({"DATABASE_URL": empty_database_url}, 2, "run `wallet migrate`"),
        ({"LOG_DIR": "/dev/null/logs"}, 2, "LOG_DIR"),
        ({"WALLET_FAILPOINTS": "nowhere=kill"}, 2, "WALLET_FAILPOINTS"),
    ):
        said = await operator.dlq("replay", "--all", **settings)
        assert (said.code, said.output.count("\n")) == (code, 1), said.output
        assert reason in said
        assert "hunter2" not in said


async def test_without_its_broker_a_replay_changes_nothing_and_a_discard_leaves_the_rest_for_later(
    database_url: str, rabbitmq_url: str, processes: Processes
) -> None:
    wire = Wire(database_url, rabbitmq_url)
    operator = Operator(processes, wire)
    async with wire.worker():
        await publish(rabbitmq_url, [OutgoingMessage(b"poison", None, None), OutgoingMessage(b"more", None, None)])
        await until(has_open, wire, 2)
    absent = {"RABBITMQ_URL": f"amqp://guest:hunter2@{NOWHERE}/"}
    replayed = await operator.dlq("replay", "--all", **absent)
    assert replayed.code == 3
    assert "run this again when it is back" in replayed
    assert "hunter2" not in replayed
    assert await has_open(wire, 2)
    discarded = await operator.dlq("discard", "1", "--reason", "poison", **absent)
    assert discarded.code == 0
    assert "the next replay or discard does it" in discarded
    assert await message_count(rabbitmq_url, DEAD_LETTER_QUEUE) == 2
    assert (await operator.dlq("discard", "2", "--reason", "poison")).code == 0
    assert await has_open(wire, 0)


async def test_a_broker_under_alarm_takes_nothing_and_the_letter_stays_open(
    database_url: str, rabbitmq_url: str, rabbitmq_server: RabbitMQServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(database_url, rabbitmq_url)
    await keep_letters(database_url, [OutgoingMessage(b"poison", None, None)])
    monkeypatch.setattr("wallet.dead_letters.routes.PUBLISH_SECONDS_MAX", 0.5)
    rabbitmq_server.ctl("set_vm_memory_high_watermark", "0.0000001")
    try:
        with pytest.raises(Exception, match="perhaps its memory or disk alarm is on"):
            await replay(wire)
    finally:
        rabbitmq_server.ctl("set_vm_memory_high_watermark", "0.6")
    (opened,) = await replay(wire, patience_seconds=0)
    assert opened.result.is_replayed


FORGED: Final = {
    "only the event's id": {"id": "event_id"},
    "where the event is": {"id": "event_id", "walletId": "wallet_id", "version": "version"},
    "another wallet": {"id": "event_id", "walletId": "other", "version": "version"},
}


@pytest.mark.parametrize("fields", FORGED.values(), ids=FORGED)
async def test_garbage_that_names_an_event_without_effect_is_discarded_by_force_alone(
    operator: Operator, fields: dict[str, str]
) -> None:
    url = operator.wire.database_url
    async with running_ledger(url) as ledger:
        await send(ledger, deposit("alice", 5))
    await seal_all(url)
    [(event_id, version)] = await fetch_rows(url, "select event_id::text, version from events where version = 2")
    values = {"event_id": event_id, "wallet_id": "alice", "other": "mallory", "version": version}
    body = json.dumps({name: values[of] for name, of in fields.items()})
    await keep_letters(url, [OutgoingMessage(body.encode(), event_id, None)])
    assert "until then it is refused" in await operator.dlq("show", "1")
    refused = await operator.dlq("discard", "1", "--reason", "forged")
    assert refused.code == 1
    assert "its event is in the log and has had no effect" in refused
    assert (await operator.dlq("discard", "1", "--reason", "forged", "--force")).code == 0
    assert "although its event is in the log" in await operator.dlq("show", "1")
    await keep_letters(url, [OutgoingMessage(body.encode() + b" ", event_id, None)])
    await process_all(url)
    assert (await operator.dlq("discard", "2", "--reason", "forged")).code == 0


async def test_a_letter_whose_body_names_another_event_is_not_discarded_while_its_own_has_no_effect(
    operator: Operator,
) -> None:
    url = operator.wire.database_url
    async with running_ledger(url) as ledger:
        await send(ledger, deposit("alice", 5))
    await seal_all(url)
    [(event_id,)] = await fetch_rows(url, "select event_id::text from events where version = 2")
    await keep_letters(url, [OutgoingMessage(json.dumps({"id": str(uuid4())}).encode(), event_id, None)])
    body = {"id": str(uuid4()), "walletId": "alice", "version": 2}
    await keep_letters(url, [OutgoingMessage(json.dumps(body).encode(), None, None)])
    for letter in ("1", "2"):
        assert (await operator.dlq("discard", letter, "--reason", "forged")).code == 1
    await process_all(url)
    for letter in ("1", "2"):
        assert (await operator.dlq("discard", letter, "--reason", "forged")).code == 0
