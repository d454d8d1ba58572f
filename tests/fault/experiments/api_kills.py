"""1: the api is killed between any two steps of a commit; clients retry their keys."""

from tests.fault.laboratory import Laboratory

STEPS = ("ledger.before_begin", "ledger.after_lock", "ledger.before_commit", "ledger.after_commit")
BATCHES_MAX = 40


async def kill_the_api_between_steps(lab: Laboratory) -> None:
    """SIGKILL before BEGIN, after the lock, before COMMIT, and after it before the answer; each under load."""
    lab.settings["TRANSFER_MODE"] = lab.draw_mode()
    await lab.start_relay()
    await lab.start_worker()
    await lab.start_api()
    api = await lab.start_api(WALLET_FAILPOINTS=lab.kill_at(STEPS[0], once_in=BATCHES_MAX))
    async with lab.load() as history:
        for step in STEPS[1:]:
            await lab.ended(api)
            api = await lab.start_again(api, WALLET_FAILPOINTS=lab.kill_at(step, once_in=BATCHES_MAX))
        await lab.ended(api)
        await lab.start_again(api)
        await history.more_answers(100)
