"""14: SIGTERM of every process under load, one after the other."""

from tests.fault.laboratory import Laboratory

ANSWERS_BETWEEN = 150
ANSWERED = {"201", "400", "404", "no answer"}


async def stop_everything_in_turn(lab: Laboratory) -> None:
    """Every process ends well, and a client that asks elsewhere when it is refused sees nothing of it."""
    await lab.start_api()
    await lab.start_api()
    relay, worker = await lab.start_relay(), await lab.start_worker()
    async with lab.load() as history:
        for _ in range(2):
            api = lab.apis[0]
            assert await lab.stop(api) == 0
            await history.more_answers(ANSWERS_BETWEEN)
            await lab.start_api(PORT=str(api.port))
            await history.more_answers(ANSWERS_BETWEEN)
        assert await lab.stop(relay) == 0
        await history.more_answers(ANSWERS_BETWEEN)
        await lab.start_relay()
        assert await lab.stop(worker) == 0
        await history.more_answers(ANSWERS_BETWEEN)
        await lab.start_worker()
        await history.more_answers(ANSWERS_BETWEEN)
    seen = lab.tries()
    assert set(seen) <= ANSWERED, f"a stop was seen by a client: {seen}"
    for reason, count in lab.reasons().items():
        lab.note(f"sent again: {count} × {reason}")
        # A kept connection that the server closes while a request is on its way: nobody can tell the two apart.
        assert reason in ("connection refused", "connection closed without an answer", "connection lost"), reason
