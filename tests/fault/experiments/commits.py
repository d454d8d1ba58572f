"""18: COMMITs hang, first all of them for want of a synchronous standby, then one on a slow disk; clients retry."""

import asyncio
from decimal import Decimal
from typing import Any

from tests.fault.laboratory import Laboratory
from tests.support.client import Client, open_client

ANSWERS_BETWEEN = 50
CONCURRENCY = 8
DEADLINE_SECONDS = 2.0
RETRIES = 3
SLOW_MS = 5_000
SLOW_ONCE_IN = 5
PATH = "/wallet/hung/deposit"
BULK = {
    "mode": "independent",
    "operations": [
        {"type": "deposit", "walletId": "hung", "amount": "2", "requestId": "b1"},
        {"type": "deposit", "walletId": "hung-too", "amount": "3", "requestId": "b2"},
    ],
}
BALANCES = {"hung": Decimal("7.0000"), "hung-too": Decimal("3.0000")}


async def hang_commits(lab: Laboratory) -> None:
    """Nothing succeeds meanwhile; no retry is told that its key is not executed; each key has one effect after it."""
    lab.settings["REQUEST_DEADLINE_SECONDS"] = f"{DEADLINE_SECONDS:g}"
    await lab.start_relay()
    await lab.start_worker()
    for _ in range(2):
        await lab.start_api(TRANSFER_MODE=lab.draw_mode())
    async with lab.load(concurrency=CONCURRENCY) as history, open_client(lab.apis[0].url) as client:
        await history.more_answers(ANSWERS_BETWEEN)
        await asyncio.to_thread(lab.postgres.hang_commits)
        try:
            # What was committed before has been answered when this has reached its deadline.
            await _tell_unknown(client, PATH, {"amount": 5, "requestId": "d"}, times=1)
            answered = len(history.exchanges)
            await asyncio.gather(
                _tell_unknown(client, PATH, {"amount": 5, "requestId": "d"}, times=RETRIES),
                _tell_unknown(client, "/operations", BULK, times=RETRIES),
            )
            assert len(history.exchanges) == answered, "a request was answered while no COMMIT was durable"
        finally:
            await asyncio.to_thread(lab.postgres.release_commits)
        replies = [await client.post(PATH, {"amount": 5, "requestId": "d"}), await client.post("/operations", BULK)]
        assert [reply.status for reply in replies] == [201, 200]
        for wallet_id, balance in BALANCES.items():
            assert Decimal((await client.get(f"/wallet/{wallet_id}"))["balance"]) == balance, wallet_id
        await history.more_answers(ANSWERS_BETWEEN)
    lab.note("no COMMIT was answered until the standby's name was taken away")
    await _slow_down_a_commit(lab)


async def _slow_down_a_commit(lab: Laboratory) -> None:
    """One COMMIT is answered only after the deadline of its requests, whose clients send them again to the same api."""
    slow = lab.fail_at("ledger.after_commit", f"delay:{SLOW_MS}", once_in=SLOW_ONCE_IN)
    api = await lab.start_api(WALLET_FAILPOINTS=slow, TRANSFER_MODE=lab.draw_mode())
    # Few wallets, so that what comes later waits for one of the slow batch.
    async with lab.load(urls=[api.url], concurrency=CONCURRENCY, wallet_count=4, count=4 * ANSWERS_BETWEEN):
        pass
    assert lab.tries()["503"], "no request met the slow COMMIT"


async def _tell_unknown(client: Client, path: str, body: dict[str, Any], *, times: int) -> None:
    """Send it so many times, once at a time."""
    for _ in range(times):
        reply = await client.post_once(path, body, url=client.urls[0])
        code = reply.json().get("code")
        assert (reply.status, code) == (503, "outcome_unknown"), f"{path} was answered {reply.status} {code}"
