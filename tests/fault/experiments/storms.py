"""13: transfers in both directions between two wallets, a hot wallet, first deposits into a new one, a locked one."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from tests.fault.laboratory import Laboratory
from tests.support.client import Client, open_client
from tests.support.database import connected, fetch_value
from tests.support.waiting import eventually, pause

STORM = 400
WRITERS = 500
FIRST_DEPOSITS = 50
FAIR_SECONDS = 5.0
"""Far more than a request takes beside a hot wallet, and far less than it would take behind all of its writers."""
PROBES = 20
WAITING = 50
MORE_LOCKED = ("locked-1", "locked-2", "locked-3")
APART_SECONDS = 0.1
LOCK = "select from wallets where wallet_id = $1 for update"
WAITED_FOR = """
select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
"""
BALANCE = "select balance from wallets where wallet_id = $1"


async def storm(lab: Laboratory) -> None:
    """No client sees a deadlock or a 5xx, no balance is wrong, and no request waits for another request's wallet."""
    lab.settings["TRANSFER_MODE"] = lab.draw_mode()
    await lab.start_relay()
    await lab.start_worker()
    apis = [await lab.start_api() for _ in range(2)]
    async with open_client(*(api.url for api in apis)) as client:
        await _transfer_both_ways(lab, client)
        await asyncio.gather(_heat_one_wallet(client), _probe_others(lab, client, beside="a hot wallet"))
        await _deposit_first(client)
        await _lock_one_wallet(lab, client)
        assert set(client.seen) <= {201}, client.seen
    assert await fetch_value(lab.database_url, BALANCE, "hot") == WRITERS + WAITING
    assert await fetch_value(lab.database_url, BALANCE, "new") == FIRST_DEPOSITS


async def _transfer_both_ways(lab: Laboratory, client: Client) -> None:
    for name in ("a", "b"):
        await client.post(f"/wallet/{name}/deposit", {"amount": STORM, "requestId": "funds"})
    ways = [("a", "b"), ("b", "a")] * (STORM // 2)
    lab.draw.shuffle(ways)
    await _post_all(
        client, [(f"/wallet/{one}/transfer", {"amount": 1, "toWalletId": other}) for one, other in ways], "storm"
    )


async def _heat_one_wallet(client: Client) -> None:
    await _post_all(client, [("/wallet/hot/deposit", {"amount": 1})] * WRITERS, "hot")


async def _probe_others(lab: Laboratory, client: Client, *, beside: str) -> None:
    """Send requests on other wallets meanwhile, and limit how long they take."""
    worst = 0.0
    for number in range(PROBES):
        began = time.monotonic()
        body = {"amount": 1, "requestId": f"beside {beside}".replace(" ", "-")}
        await client.post(f"/wallet/cold-{number}/deposit", body, first_url=number)
        worst = max(worst, time.monotonic() - began)
    lab.note(f"beside {beside} the slowest of {PROBES} requests took {worst * 1000:,.0f} ms")
    assert worst < FAIR_SECONDS, f"a request on another wallet took {worst:.1f} s"


async def _lock_one_wallet(lab: Laboratory, client: Client) -> None:
    """Lock a wallet's row in another session while many requests wait for it: only these wait."""
    async with connected(lab.database_url) as outside:
        for wallet_id in MORE_LOCKED:
            await client.post(f"/wallet/{wallet_id}/deposit", {"amount": 1, "requestId": "first"})
        async with outside.transaction():
            for wallet_id in MORE_LOCKED:
                await outside.execute(LOCK, wallet_id)
            await outside.execute(LOCK, "hot")
            waiting = asyncio.create_task(
                _post_all(client, [("/wallet/hot/deposit", {"amount": 1})] * WAITING, "locked")
            )
            await _wait_for_lock(lab)
            more = []
            for wallet_id in MORE_LOCKED:
                # One after the other, so that each is in a separate batch: as many batches wait as an api has lanes.
                posts = _post_all(client, [(f"/wallet/{wallet_id}/deposit", {"amount": 1})] * 2, "locked")
                more.append(asyncio.create_task(posts))
                await pause(APART_SECONDS)
            await _probe_others(lab, client, beside="a locked wallet")
            assert not waiting.done(), "requests on a locked wallet did not wait for it"
        await asyncio.gather(waiting, *more)


async def _wait_for_lock(lab: Laboratory) -> None:
    async def is_waited_for() -> bool:
        return bool(await fetch_value(lab.database_url, WAITED_FOR))

    await eventually(is_waited_for)


async def _deposit_first(client: Client) -> None:
    replies = await _post_all(client, [("/wallet/new/deposit", {"amount": 1})] * FIRST_DEPOSITS, "first")
    created = [reply["created"] for reply in replies].count(True)
    assert created == 1, f"{created} of {FIRST_DEPOSITS} first deposits say that they made the wallet"


async def _post_all(
    client: Client, requests: Sequence[tuple[str, dict[str, object]]], name: str
) -> list[dict[str, object]]:
    posts = [
        client.post(path, {**body, "requestId": f"{name}-{number}"}, first_url=number)
        for number, (path, body) in enumerate(requests)
    ]
    replies = await asyncio.gather(*posts)
    assert {reply.status for reply in replies} == {201}, f"{name}: {Counter(reply.status for reply in replies)}"
    return [reply.json() for reply in replies]
