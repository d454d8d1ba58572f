"""3: the worker is killed before its COMMIT, and between COMMIT and acknowledgement."""

from tests.fault.laboratory import Laboratory

STEPS = ("worker.before_commit", "worker.before_ack")
GROUPS_MAX = 15


async def kill_the_worker_between_steps(lab: Laboratory) -> None:
    """SIGKILL at each step, twice in turn, while events go on coming; the last time with another worker beside it."""
    await lab.start_api()
    await lab.start_relay()
    async with lab.load(concurrency=8):
        for is_alone in (True, False):
            for step in STEPS:
                if not is_alone:
                    await lab.start_worker()
                worker = await lab.start_worker(WALLET_FAILPOINTS=lab.kill_at(step, once_in=GROUPS_MAX))
                if is_alone or lab.rabbitmq_url is not None:
                    await lab.ended(worker)
                else:
                    # It stands by behind the lease of the other, and may never come to a group.
                    await lab.kill(worker)
    await lab.start_worker()
