"""20: an event is removed from the queue, messages with its id are forged, and their dead letters discarded."""

import asyncio
import json

from tests.fault.laboratory import Laboratory
from tests.support.broker import take_all
from tests.support.client import open_client
from tests.support.database import fetch_rows, fetch_value
from tests.support.dlq import Operator
from tests.support.verification import proof_of
from tests.support.waiting import eventually
from tests.support.worker import Wire, publish
from wallet.integrity.findings import Check
from wallet.integrity.monitor.state import decode_state
from wallet.rabbitmq.publisher import OutgoingMessage
from wallet.rabbitmq.topology import WORKER_QUEUE

REQUESTS = 40
NAMED_WITHIN = 120.0
"""A minute since the event was published, a minute since a later one had its effect, and an incremental check."""
OPEN = "select count(*) from dead_letters where state = 'open'"
EFFECT = "select coalesce(sum(total_deposited), 0)::text from wallet_stats where wallet_id = 'victim'"
MONITOR = "select state::text from auditor"


async def steal_and_forge(lab: Laboratory) -> None:
    """The forgeries have no effect; a discard needs force; then the event is reported, and a rebuild applies it."""
    assert lab.rabbitmq_url is not None
    lab.has_dead_letters = True
    api, _, worker = await lab.start_api(), await lab.start_relay(), await lab.start_worker()
    async with lab.load(count=REQUESTS):
        pass
    await lab.at_rest()
    await lab.stop(worker)
    event_id, forgeries = await _steal(lab, api.url, lab.rabbitmq_url)
    await publish(lab.rabbitmq_url, forgeries)
    await lab.start_worker()
    async with lab.load(count=REQUESTS):
        pass
    operator = Operator(lab.processes, Wire(lab.database_url, lab.rabbitmq_url))

    async def are_open() -> bool:
        return bool(await fetch_value(lab.database_url, OPEN) == len(forgeries))

    await eventually(are_open, within=30)
    numbers = [str(number) for (number,) in await fetch_rows(lab.database_url, "select id from dead_letters")]
    refused = await operator.dlq("discard", *numbers, "--reason", "an experiment")
    assert refused.code == 1, refused.output
    assert "has had no effect" in refused
    assert await are_open()
    assert await _named_by_verify(lab, event_id) == "", "an event with an open dead letter was called lost"
    forced = await operator.dlq("discard", *numbers, "--reason", "an experiment", "--force")
    assert forced.code == 0, forced.output
    await eventually(lambda: _is_named(lab, event_id), within=NAMED_WITHIN, every=1.0)
    assert await fetch_value(lab.database_url, EFFECT) == "0.0000", "a forged message had an effect"
    rebuild = lab.processes.start("rebuild", settings=operator.settings(""))
    assert await asyncio.to_thread(rebuild.wait) == 0, rebuild.output()
    assert await fetch_value(lab.database_url, EFFECT) == "500.0000"
    assert await _named_by_verify(lab, event_id) == ""

    async def is_struck() -> bool:
        return Check.EFFECTS.name not in decode_state(str(await fetch_value(lab.database_url, MONITOR))).faults

    await eventually(is_struck, within=NAMED_WITHIN, every=1.0)


async def _steal(lab: Laboratory, url: str, rabbitmq_url: str) -> tuple[str, list[OutgoingMessage]]:
    """Remove a deposit's event from the queue. Returns its id, and the forged messages to publish in its place."""
    async with open_client(url) as client:
        await client.deposit("victim", 500, "victim")
    await lab.all_published()
    messages = await take_all(rabbitmq_url, WORKER_QUEUE)
    bodies = [json.loads(body) for _, body in messages]
    [stolen] = [body for body in bodies if body["type"] == "FundsDeposited" and body["walletId"] == "victim"]
    others = [OutgoingMessage(raw, properties.message_id, properties.type) for properties, raw in messages]
    await publish(rabbitmq_url, [other for other in others if other.message_id != stolen["id"]])
    forged = stolen | {"payload": stolen["payload"] | {"amount": "1000000.0000", "newBalance": "1000000.0000"}}
    garbage = {"id": stolen["id"], "note": "nothing that could be read"}
    lab.note(f"event {stolen['id']} stolen, two messages forged with its id")
    return stolen["id"], [
        OutgoingMessage(json.dumps(body).encode(), stolen["id"], "FundsDeposited")
        for body in (forged | {"version": 99}, garbage)
    ]


async def _named_by_verify(lab: Laboratory, event_id: str) -> str:
    """Returns the fault in which `verify` names the event, or an empty text if it is not lost."""
    proof = await proof_of(lab.database_url)
    faults = [str(finding.first) for finding in proof.findings if finding.first and finding.check is Check.EFFECTS]
    return next((fault for fault in faults if event_id in fault), "")


async def _is_named(lab: Laboratory, event_id: str) -> bool:
    """Returns whether `verify` and the monitor both name the event and `wallet rebuild`."""
    state = decode_state(str(await fetch_value(lab.database_url, MONITOR)))
    by_verify, by_monitor = await _named_by_verify(lab, event_id), str(state.faults.get(Check.EFFECTS.name))
    return event_id in by_monitor and "wallet rebuild" in by_monitor and "wallet rebuild" in by_verify
