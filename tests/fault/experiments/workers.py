"""3: the worker is killed before its COMMIT, and between COMMIT and acknowledgement."""

from tests.fault.laboratory import Laboratory

BEFORE_COMMIT, BEFORE_ACK = "worker.before_commit", "worker.before_ack"
GROUPS_MAX = 15
TIMES = 2


async def kill_the_worker_between_steps(lab: Laboratory) -> None:
    """Kill a worker at each step, first alone and then beside other workers, while events arrive."""
    await lab.start_api()
    await lab.start_relay()
    async with lab.load(concurrency=8) as history:
        if lab.rabbitmq_url is None:
            # The checkpoint is committed with the effects; there is no acknowledgement. A standby takes over.
            for _ in range(TIMES):
                await lab.ended(
                    await lab.start_worker(WALLET_FAILPOINTS=lab.fail_at(BEFORE_COMMIT, "kill", once_in=GROUPS_MAX))
                )
        else:
            for step in (BEFORE_COMMIT, BEFORE_ACK) * TIMES:
                await lab.ended(await lab.start_worker(WALLET_FAILPOINTS=lab.fail_at(step, "kill", once_in=GROUPS_MAX)))
                await lab.start_worker()
        await lab.start_worker()
        await history.more_answers(50)
