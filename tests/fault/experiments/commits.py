"""18: COMMITs hang, first all because a synchronous standby is missing, then one on a slow disk; clients retry."""

import asyncio
from decimal import Decimal

from tests.fault.laboratory import Laboratory
from tests.support.client import Client, open_client
from tests.support.waiting import eventually

ANSWERS_BETWEEN = 50
CONCURRENCY = 8
DEADLINE_SECONDS = 2.0
BEGUN_SECONDS_MAX = 30.0
RETRIES = 3
SLOW_MS = 5_000
SLOW_ONCE_IN = 5
PATH = "/wallet/hung/deposit"
DEPOSIT: dict[str, object] = {"amount": 5, "requestId": "d"}
BULK: dict[str, object] = {
    "mode": "independent",
    "operations": [
        {"type": "deposit", "walletId": "hung-bulk", "amount": "2", "requestId": "b1"},
        {"type": "deposit", "walletId": "hung-too", "amount": "3", "requestId": "b2"},
    ],
}
BALANCES = {"hung": Decimal("6.0000"), "hung-bulk": Decimal("2.0000"), "hung-too": Decimal("3.0000")}


async def hang_commits(lab: Laboratory) -> None:
    """Nothing succeeds meanwhile; no retry is answered `not_executed`; afterwards each key has one effect."""
    lab.settings["REQUEST_DEADLINE_SECONDS"] = f"{DEADLINE_SECONDS:g}"
    await lab.start_relay()
    await lab.start_worker()
    loaded = [(await lab.start_api(TRANSFER_MODE=lab.draw_mode())).url for _ in range(2)]
    # This api has no other load, so its lanes begin a request at once, and the COMMIT hangs.
    api = await lab.start_api(TRANSFER_MODE=lab.draw_mode())
    async with lab.load(urls=loaded, concurrency=CONCURRENCY) as history, open_client(api.url) as client:
        await client.post(PATH, {"amount": 1})
        await history.more_answers(ANSWERS_BETWEEN)
        await asyncio.to_thread(lab.postgres.hang_commits)
        try:
            # When these reach their deadline, everything that was committed before has been answered.
            await asyncio.gather(_begin(client, PATH, DEPOSIT), _begin(client, "/operations", BULK))
            answered = len(history.exchanges)
            await asyncio.gather(_retry(client, PATH, DEPOSIT), _retry(client, "/operations", BULK))
            assert len(history.exchanges) == answered, "a request was answered while no COMMIT was durable"
        finally:
            await asyncio.to_thread(lab.postgres.release_commits)
        replies = [await client.post(PATH, DEPOSIT), await client.post("/operations", BULK)]
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
    # Few wallets, so that later requests wait for a wallet of the slow batch.
    async with lab.load(urls=[api.url], concurrency=CONCURRENCY, wallet_count=4, count=4 * ANSWERS_BETWEEN):
        pass
    assert lab.tries()["503"], "no request met the slow COMMIT"


async def _begin(client: Client, path: str, body: dict[str, object]) -> None:
    """Send the request until one attempt is begun before its deadline, so that its COMMIT hangs."""

    async def is_begun() -> bool:
        return await _refused(client, path, body) == "outcome_unknown"

    await eventually(is_begun, within=BEGUN_SECONDS_MAX)


async def _retry(client: Client, path: str, body: dict[str, object]) -> None:
    for _ in range(RETRIES):
        code = await _refused(client, path, body)
        assert code == "outcome_unknown", f"a retry was answered {code} while its first COMMIT hung: {path}"


async def _refused(client: Client, path: str, body: dict[str, object]) -> object:
    """Send the request once. Returns the code of the 503."""
    reply = await client.post_once(path, body, url=client.urls[0])
    assert reply.status == 503, f"{path} was answered {reply.status} while no COMMIT was durable"
    return reply.json().get("code")
