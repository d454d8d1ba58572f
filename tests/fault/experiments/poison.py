"""11: messages that can never succeed, and a handler with a bug that is then fixed."""

import json
from uuid import uuid4

from tests.fault.laboratory import Laboratory
from tests.support.broker import message_count
from tests.support.client import open_client
from tests.support.database import execute, fetch_rows, fetch_value
from tests.support.dlq import Operator
from tests.support.waiting import eventually
from tests.support.worker import Wire, publish
from wallet.rabbitmq.publisher import OutgoingMessage
from wallet.rabbitmq.topology import DEAD_LETTER_QUEUE

POISONS = 4
CURSED_EVENTS = 2
"""WalletCreated and FundsDeposited: both change the row on which the handler fails."""
BIG_BYTES = 5 * 1024 * 1024
BREAK = """
create function break_cursed() returns trigger language plpgsql as $$
begin
    raise exception 'a bug of the handler';
end
$$
"""
BREAK_AT = """
create trigger break_cursed before insert or update on wallet_stats
    for each row when (new.wallet_id = 'cursed') execute function break_cursed()
"""
FIX = "drop trigger break_cursed on wallet_stats"
OPEN = "select count(*) from dead_letters where state = 'open'"
CURSED = "select total_deposited::text from wallet_stats where wallet_id = 'cursed'"


async def poison_the_queue(lab: Laboratory) -> None:
    """Each becomes a dead letter with its reason, others are handled; after the fix a replay takes effect once."""
    assert lab.rabbitmq_url is not None
    lab.has_dead_letters = True
    api = await lab.start_api()
    await lab.start_relay()
    await lab.start_worker()
    await execute(lab.database_url, BREAK)
    await execute(lab.database_url, BREAK_AT)
    async with lab.load(concurrency=4) as history, open_client(api.url) as client:
        await history.more_answers(20)
        await publish(lab.rabbitmq_url, _poison())
        await client.post("/wallet/cursed/deposit", {"amount": 3, "requestId": "cursed"})
        await history.more_answers(100)
    await _open_letters(lab, POISONS + CURSED_EVENTS)
    lab.note(f"{POISONS + CURSED_EVENTS} dead letters while the rest flowed")
    await execute(lab.database_url, FIX)
    operator = Operator(lab.processes, Wire(lab.database_url, lab.rabbitmq_url))
    await operator.dlq("replay", "--all")
    await _open_letters(lab, POISONS)
    for (number,) in await fetch_rows(lab.database_url, "select id from dead_letters where state = 'open'"):
        said = await operator.dlq("discard", str(number), "--reason", "an experiment")
        assert said.code == 0, said.output
    assert await fetch_value(lab.database_url, OPEN) == 0
    assert await fetch_value(lab.database_url, CURSED) == "3.0000"

    async def queue_is_empty() -> bool:
        return await message_count(str(lab.rabbitmq_url), DEAD_LETTER_QUEUE) == 0

    await eventually(queue_is_empty, within=20, every=0.2)


def _poison() -> list[OutgoingMessage]:
    no_amount = {"id": str(uuid4()), "type": "FundsDeposited", "schemaVersion": 1, "walletId": "nobody", "version": 1}
    return [
        OutgoingMessage(b"not JSON", None, None),
        OutgoingMessage(json.dumps(no_amount | {"type": "NeverHeardOf"}).encode(), str(uuid4()), "NeverHeardOf"),
        OutgoingMessage(json.dumps(no_amount).encode(), str(no_amount["id"]), "FundsDeposited"),
        OutgoingMessage(b"x" * BIG_BYTES, None, None),
    ]


async def _open_letters(lab: Laboratory, count: int) -> None:
    """Wait until this many dead letters are open, and as many messages are in the dead-letter queue."""

    async def are_open() -> bool:
        found = await fetch_value(lab.database_url, OPEN)
        assert found == count, f"{found} dead letters are open"
        messages = await message_count(str(lab.rabbitmq_url), DEAD_LETTER_QUEUE)
        assert messages == count, f"{messages} messages lie in the dead-letter queue, {count} letters are open"
        return True

    await eventually(are_open, within=30, every=0.1)
