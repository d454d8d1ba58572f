"""3: the worker is killed before its COMMIT, and between COMMIT and acknowledgement."""

from tests.fault.laboratory import Laboratory

BEFORE_COMMIT, BEFORE_ACK = "worker.before_commit", "worker.before_ack"
GROUPS_MAX = 15
TIMES = 2


async def kill_the_worker_between_steps(lab: Laboratory) -> None:
    """SIGKILL at each step, alone and then with others beside it, while events go on coming."""
    await lab.start_api()
    await lab.start_relay()
    async with lab.load(concurrency=8) as history:
        if lab.rabbitmq_url is None:
            # The checkpoint moves with the effects: there is no acknowledgement. Who stands by takes over.
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
