"""1: the api is killed between any two steps of a commit, or is stopped there with its locks; clients retry."""

import signal

from tests.fault.laboratory import Laboratory
from tests.support.waiting import eventually, pause

STEPS = ("ledger.before_begin", "ledger.after_lock", "ledger.before_commit", "ledger.after_commit")
BATCHES_MAX = 40
BEFORE_COMMIT_MS = 200
FROZEN_SECONDS_MAX = 30.0
ANSWERS_BESIDE_FROZEN = 20
"""A low number, because more and more senders wait for the frozen api."""


async def kill_the_api_between_steps(lab: Laboratory) -> None:
    """Kill before BEGIN, after the lock, before COMMIT, between COMMIT and answer; then stop an api and resume it."""
    lab.settings["TRANSFER_MODE"] = lab.draw_mode()
    await lab.start_relay()
    await lab.start_worker()
    await lab.start_api()
    api = await lab.start_api(WALLET_FAILPOINTS=lab.fail_at(STEPS[0], "kill", once_in=BATCHES_MAX))
    async with lab.load() as history:
        for step in STEPS[1:]:
            await lab.ended(api)
            api = await lab.start_again(api, WALLET_FAILPOINTS=lab.fail_at(step, "kill", once_in=BATCHES_MAX))
        await lab.ended(api)
        # Also kill from outside, while every batch waits just before its COMMIT and no client has been answered.
        waits = f"ledger.before_commit=delay:{BEFORE_COMMIT_MS}"
        api = await lab.start_again(api, WALLET_FAILPOINTS=waits)
        for _ in range(3):
            await pause(lab.draw.uniform(0.5, 2) * BEFORE_COMMIT_MS / 1000)
            await lab.kill(api)
            api = await lab.start_api(PORT=str(api.port), WALLET_FAILPOINTS=waits)
        await lab.kill(api)
        step = lab.draw.choice(STEPS)
        frozen = await lab.start_api(
            PORT=str(api.port), WALLET_FAILPOINTS=lab.fail_at(step, "stop", once_in=BATCHES_MAX)
        )
        await eventually(lambda: frozen.is_frozen, within=FROZEN_SECONDS_MAX)
        # PostgreSQL ends the session that keeps its locks; until then only requests on these wallets wait.
        await history.more_answers(ANSWERS_BESIDE_FROZEN)
        frozen.send_signal(signal.SIGCONT)
        await history.more_answers(100)
