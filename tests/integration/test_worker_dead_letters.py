"""Messages at fault become dead letters with their reason, once, while the rest flows; a replay takes effect once."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from tests.support.database import connected, execute, fetch_rows
from tests.support.event_log import Log, Row
from tests.support.worker import (
    RULES,
    Wire,
    dead_letter_bodies,
    has_logged,
    projections_match,
    publish,
    queue_counts,
    until,
)
from wallet.rabbitmq.publisher import OutgoingMessage
from wallet.runtime.failpoints import configure_failpoints
from wallet.worker.dead_letters import keep
from wallet.worker.handle import Handled, handle_group
from wallet.worker.messages import RefusedMessage, check_messages

BREAK_CURSED = """
create function break_cursed() returns trigger language plpgsql as $$
begin
    raise exception 'a handler bug';
end
$$;
create trigger break_cursed before insert or update on wallet_stats
    for each row when (new.wallet_id = 'cursed') execute function break_cursed()
"""
FIX_CURSED = "drop trigger break_cursed on wallet_stats"


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


async def open_letters(database_url: str) -> list[tuple[Any, ...]]:
    query = "select event_id, error, attempts from dead_letters where state = 'open' order by id"
    return [tuple(row) for row in await fetch_rows(database_url, query)]


async def processed_statuses(database_url: str) -> set[str]:
    return {row["status"] for row in await fetch_rows(database_url, "select status from processed_events")}


async def has_letters(database_url: str, count: int) -> bool:
    assert len(await open_letters(database_url)) == count
    return True


async def replay(database_url: str) -> Handled[OutgoingMessage]:
    """Handle every open dead letter again, as a replay does."""
    letters = await fetch_rows(database_url, "select body, headers from dead_letters where state = 'open'")
    async with connected(database_url) as connection:
        messages = [
            OutgoingMessage(body, (beside := json.loads(headers))["messageId"], beside["type"], beside["headers"])
            for body, headers in letters
        ]
        return await handle_group(connection, messages, RULES, check=check_messages)


def changed(row: Row, **fields: Any) -> OutgoingMessage:
    """The row's message with some fields of its body changed, or left out where the new value is None."""
    message = row.message()
    body = json.loads(message.body) | fields
    return OutgoingMessage(
        json.dumps({name: value for name, value in body.items() if value is not None}).encode(),
        message.message_id,
        message.type,
    )


async def test_poison_is_kept_with_its_reason_and_the_rest_flows(database_url: str, rabbitmq_url: str) -> None:
    async with Log.open(database_url) as log:
        log.deposit("alice", 100)
        log.deposit("bob", 100)
        rows = await log.commit()
    deposit = rows[1]
    stranger = str(UUID(int=7))
    poison = {
        "UndecodableMessage: The body is not an event": OutgoingMessage(b"\xff\x00 not JSON", None, None),
        "UnknownEventType: type is 'WalletFrozen'": changed(deposit, type="WalletFrozen"),
        "UnknownSchemaVersion: schemaVersion is 2": changed(deposit, schemaVersion=2),
        "UndecodableMessage: The body is not an event: Object missing required field `walletId`": changed(
            deposit, walletId=None
        ),
        "UndecodableMessage: payload.amount": changed(deposit, payload={"walletId": "alice"}),
        "UndecodableMessage: The body has 5242880 bytes": OutgoingMessage(
            b" " * (5 * 1024 * 1024), stranger, "FundsDeposited"
        ),
        "NotInTheLog: the event log has no version 99 of wallet alice": changed(deposit, id=stranger, version=99),
        "NotInTheLog: version 2 of wallet alice is event": changed(deposit, id=stranger),
        "UndecodableMessage: version is -1": changed(deposit, version=-1),
    }
    async with Wire(database_url, rabbitmq_url).worker():
        await publish(rabbitmq_url, [rows[0], *poison.values(), *rows[1:]])
        await until(has_letters, database_url, len(poison))
        await until(projections_match, database_url, rows)
    errors = [error for _, error, _ in await open_letters(database_url)]
    assert [reason for reason in poison if not any(error.startswith(reason) for error in errors)] == []
    assert await queue_counts(rabbitmq_url) == (0, len(poison))
    assert sorted(await dead_letter_bodies(rabbitmq_url)) == sorted(message.body for message in poison.values())


async def test_a_forged_message_moves_nothing_and_the_true_event_still_counts(
    database_url: str, rabbitmq_url: str
) -> None:
    async with Log.open(database_url) as log:
        log.deposit("alice", 100)
        rows = await log.commit()
    forged = changed(rows[1], version=1)
    async with Wire(database_url, rabbitmq_url).worker():
        await publish(rabbitmq_url, [forged])
        await until(has_letters, database_url, 1)
        assert await fetch_rows(database_url, "select wallet_id from wallet_stats") == []
        statuses = await fetch_rows(database_url, "select status from processed_events")
        assert [row["status"] for row in statuses] == ["failed"]
        await publish(rabbitmq_url, rows)
        await until(projections_match, database_url, rows)
    assert await processed_statuses(database_url) == {"success"}


async def test_the_amount_is_the_logs_whatever_the_message_says(database_url: str, rabbitmq_url: str) -> None:
    async with Log.open(database_url) as log:
        log.deposit("alice", 100)
        created, deposit = await log.commit()
    body = json.loads(deposit.message().body)
    body["payload"]["amount"] = "999999.0000"
    async with Wire(database_url, rabbitmq_url).worker():
        await publish(rabbitmq_url, [created, changed(deposit, payload=body["payload"])])
        await until(projections_match, database_url, [created, deposit])


async def test_a_handler_bug_sets_its_event_alone_aside_and_a_replay_after_the_fix_takes_effect_once(
    wire: Wire,
) -> None:
    await execute(wire.database_url, BREAK_CURSED)
    async with Log.open(wire.database_url) as log, wire.worker():
        log.deposit("alice", 1)
        log.deposit("cursed", 5)
        log.deposit("bob", 1)
        rows = await log.commit()
        healthy = [row for row in rows if row.recorded.wallet_id != "cursed"]
        cursed = [row for row in rows if row.recorded.wallet_id == "cursed"]
        await wire.deliver(rows)
        await until(has_letters, wire.database_url, 2)
        await wire.matches(healthy)
        letters = await open_letters(wire.database_url)
        assert {letter[0] for letter in letters} == {row.event_id for row in cursed}
        assert {letter[1:] for letter in letters} == {("RaiseError: a handler bug", 3)}
        failed = "select event_id, error_message, attempts from processed_events where status = 'failed'"
        assert sorted(tuple(row) for row in await fetch_rows(wire.database_url, failed)) == sorted(letters)
        if wire.rabbitmq_url is not None:
            assert sorted(await dead_letter_bodies(wire.rabbitmq_url)) == sorted(row.message().body for row in cursed)

        await execute(wire.database_url, FIX_CURSED)
        for _ in range(2):
            assert (await replay(wire.database_url)).refused == []
            assert await projections_match(wire.database_url, rows)
        log.deposit("cursed", 7)
        await wire.deliver(await log.commit())
        await wire.matches(log.rows)


async def test_a_bug_that_passes_at_the_second_try_leaves_no_dead_letter(wire: Wire) -> None:
    configure_failpoints("worker.before_commit=raise@1")
    async with Log.open(wire.database_url) as log, wire.worker():
        log.deposit("alice", 1)
        await wire.deliver(await log.commit())
        await wire.matches(log.rows)
    assert await open_letters(wire.database_url) == []


async def test_a_bug_in_every_event_sets_them_all_aside_and_a_replay_brings_them_back(wire: Wire) -> None:
    configure_failpoints("worker.before_commit=raise")
    async with Log.open(wire.database_url) as log, wire.worker():
        for number in range(30):
            log.deposit(f"wallet-{number}", 1)
        rows = await log.commit()
        await wire.deliver(rows)
        await until(has_letters, wire.database_url, len(rows))
        assert await fetch_rows(wire.database_url, "select wallet_id from wallet_stats") == []
        configure_failpoints("")
        assert (await replay(wire.database_url)).refused == []
        assert await projections_match(wire.database_url, rows)
        log.deposit("wallet-0", 1)
        await wire.deliver(await log.commit())
        await wire.matches(log.rows)


async def test_an_event_of_a_newer_program_is_parked_and_the_journal_goes_on(database_url: str) -> None:
    async with Log.open(database_url) as log, Wire(database_url, None).worker():
        log.deposit("alice", 1)
        newer = log.pending.pop()
        await log.commit()
        await log.commit_newer(newer, event_type="WalletFrozen", schema_version=1)
        log.deposit("bob", 1)
        newest = log.pending.pop()
        await log.commit()
        await log.commit_newer(newest, event_type="FundsDeposited", schema_version=2)
        await until(has_letters, database_url, 2)
        log.deposit("carol", 1)
        await log.commit()
        await until(projections_match, database_url, log.rows)
    errors = {error.split(":")[0] for _, error, _ in await open_letters(database_url)}
    assert errors == {"UnknownEventType", "UnknownSchemaVersion"}
    assert {row["kind"] for row in await fetch_rows(database_url, "select kind from dead_letters")} == {"parked"}
    assert await fetch_rows(database_url, "select event_id from processed_events where status = 'failed'") == []


async def test_a_crash_between_the_dead_letter_and_the_reject_leaves_one_open_letter(
    database_url: str, rabbitmq_url: str
) -> None:
    wire = Wire(database_url, rabbitmq_url)
    configure_failpoints("worker.before_ack=raise@1")
    with capture_logs() as lines:
        async with wire.worker():
            await publish(rabbitmq_url, [OutgoingMessage(b"poison", None, None)])
            await until(has_logged, lines, "group_handled")
    ((_, error, attempts),) = await open_letters(database_url)
    assert error.startswith("UndecodableMessage")
    assert attempts == 2
    assert await queue_counts(rabbitmq_url) == (0, 1)


async def test_a_late_duplicate_never_turns_a_success_into_a_failure(wire: Wire) -> None:
    async with Log.open(wire.database_url) as log:
        log.deposit("alice", 1)
        rows = await log.commit()
        async with wire.worker():
            await wire.deliver(rows)
            await wire.matches(rows)
        async with connected(wire.database_url) as connection:
            await keep(connection, [RefusedMessage(row.message(), "a bug", 3) for row in rows])
        assert await processed_statuses(wire.database_url) == {"success"}


async def test_whatever_comes_beside_the_body_can_be_stored(database_url: str) -> None:
    headers = {"nul": "\x00", "surrogate": "\ud800", "bytes": b"\xff", "nested": {"x": [1.5, None, True]}, "é": 2**70}
    message = OutgoingMessage(b"\x00poison", "not a uuid\x00", "type\x00", headers)
    async with connected(database_url) as connection:
        handled = await handle_group(connection, [message, message], RULES, check=check_messages)
    assert [letter.message for letter in handled.refused] == [message, message]
    ((_, _, attempts),) = await open_letters(database_url)
    assert attempts == 2


async def test_undecodable_messages_that_come_twenty_times_are_one_row_and_leave_the_queue(
    database_url: str, rabbitmq_url: str
) -> None:
    async with Wire(database_url, rabbitmq_url).worker(), Wire(database_url, rabbitmq_url).worker():
        await publish(
            rabbitmq_url, [OutgoingMessage(f"poison {number % 4}".encode(), None, None) for number in range(80)]
        )
        await until(attempts_are, database_url, [20, 20, 20, 20])
    assert await queue_counts(rabbitmq_url) == (0, 80)


async def attempts_are(database_url: str, attempts: list[int]) -> bool:
    assert [letter[2] for letter in await open_letters(database_url)] == attempts
    return True
