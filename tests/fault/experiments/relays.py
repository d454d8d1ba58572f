"""2: the relay is killed between any two of its steps, or is stopped until its lease has ended, and then resumed."""

import signal

from tests.fault.laboratory import Laboratory
from tests.fault.load import History
from tests.support.database import fetch_value
from tests.support.ports import free_port
from tests.support.process_faults import suspend
from tests.support.proxy import Proxy
from tests.support.waiting import eventually

STEPS = ("relay.after_seal", "relay.after_publish", "relay.before_mark")
ROUNDS_MAX = 15
LEASE_SECONDS_MAX = 20.0
PAUSE_SECONDS = 0.1
"""Leases must expire several times: a full load during that time would make the final check longer, not stricter."""
ASLEEP_BEFORE_MARK = "relay.before_mark=stop@1,relay.after_seal=delay:10000@1"
"""Without the delay, sealing would detect first that the lease is lost."""
MARKED = "select count(*) from journal where published_at is not null"


async def kill_the_relay_between_steps(lab: Laboratory) -> None:
    """Kill after a seal, between publish and confirm, between confirm and mark; then a former leader is fenced off."""
    assert lab.rabbitmq_url is not None
    await lab.start_api()
    await lab.start_worker()
    async with lab.load(concurrency=8, pause_seconds=PAUSE_SECONDS) as history:
        for step in STEPS:
            relay = await lab.start_relay(WALLET_FAILPOINTS=lab.fail_at(step, "kill", once_in=ROUNDS_MAX))
            await lab.ended(relay)
        zombie = await lab.start_relay()
        await eventually(lambda: "lease_taken" in zombie.logs(), within=LEASE_SECONDS_MAX)
        await history.more_answers(50)
        async with suspend(zombie):
            successor = await lab.start_relay()
            await eventually(lambda: "lease_taken" in successor.logs(), within=LEASE_SECONDS_MAX)
            await history.more_answers(50)
        await eventually(lambda: "lease_lost" in zombie.logs(), within=LEASE_SECONDS_MAX)
        await history.more_answers(50)
        assert "lease_lost" not in successor.logs(), "the successor was fenced off, and not the zombie"
        await lab.kill(zombie)
        await lab.stop(successor)
        await _lose_what_was_published(lab, history, lab.rabbitmq_url)
        await _fence_a_mark(lab)
        await lab.start_relay()


async def _lose_what_was_published(lab: Laboratory, history: History, url: str) -> None:
    """Kill the relay between publish and confirm, when the published messages have not reached the broker."""
    async with Proxy.to_server_of(url) as network:
        relay = await lab.start_relay(RABBITMQ_URL=network.url_of(url))
        await eventually(lambda: "broker_connected" in relay.logs(), within=LEASE_SECONDS_MAX)
        await history.more_answers(20)
        network.silence()
        await history.more_answers(50)
        await lab.kill(relay)


async def _fence_a_mark(lab: Laboratory) -> None:
    """Stop a relay between confirm and mark; another one, without a broker, takes over; no batch is marked."""
    zombie = await lab.start_relay(WALLET_FAILPOINTS=ASLEEP_BEFORE_MARK)
    await eventually(lambda: zombie.is_frozen, within=LEASE_SECONDS_MAX)
    successor = await lab.start_relay(RABBITMQ_URL=f"amqp://guest:guest@127.0.0.1:{free_port()}/")
    await eventually(lambda: "lease_taken" in successor.logs(), within=LEASE_SECONDS_MAX)
    before = await fetch_value(lab.database_url, MARKED)
    zombie.send_signal(signal.SIGCONT)
    await eventually(lambda: "lease_lost" in zombie.logs(), within=LEASE_SECONDS_MAX)
    after = await fetch_value(lab.database_url, MARKED)
    await lab.kill(zombie)
    await lab.kill(successor)
    assert after == before, f"a relay without the lease marked batches: {before} were marked before, {after} then"
