"""2: the relay is killed between any two of its steps, or sleeps through its lease and wakes as a zombie."""

from tests.fault.laboratory import Laboratory
from tests.support.process_faults import suspend
from tests.support.waiting import eventually

STEPS = ("relay.after_seal", "relay.after_publish", "relay.before_mark")
ROUNDS_MAX = 15
LEASE_SECONDS_MAX = 20.0


async def kill_the_relay_between_steps(lab: Laboratory) -> None:
    """SIGKILL after a seal, between publish and confirm, between confirm and mark; then a zombie is fenced off."""
    await lab.start_api()
    await lab.start_worker()
    async with lab.load(concurrency=8) as history:
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
