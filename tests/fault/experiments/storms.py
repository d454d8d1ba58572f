"""13: transfers between two wallets both ways, one hot wallet, and many first deposits into a new one."""

import asyncio
import time
from collections.abc import Sequence

from tests.fault.laboratory import MODES, Laboratory
from tests.support.books import fetch_value
from tests.support.client import Client, open_client

STORM = 400
WRITERS = 500
FIRST_DEPOSITS = 50
FAIR_SECONDS = 5.0
"""Far more than a request takes beside a hot wallet, far less than waiting behind all of its writers would."""
BALANCE = "select balance from wallets where wallet_id = $1"


async def storm(lab: Laboratory) -> None:
    """No deadlock and no 5xx reaches a client, no balance is off, and nobody waits behind somebody else's wallet."""
    lab.settings["TRANSFER_MODE"] = lab.draw.choice(MODES)
    await lab.start_relay()
    await lab.start_worker()
    apis = [await lab.start_api() for _ in range(2)]
    async with open_client(*(api.url for api in apis)) as client:
        await _transfer_both_ways(lab, client)
        await asyncio.gather(_heat_one_wallet(client), _probe_others(lab, client))
        await _deposit_first(client)
        assert set(client.seen) <= {201}, client.seen
    assert await fetch_value(lab.database_url, BALANCE, "hot") == WRITERS
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


async def _probe_others(lab: Laboratory, client: Client) -> None:
    """Requests on other wallets meanwhile."""
    worst = 0.0
    for number in range(20):
        began = time.monotonic()
        await client.post(f"/wallet/cold-{number}/deposit", {"amount": 1, "requestId": "probe"}, first_url=number)
        worst = max(worst, time.monotonic() - began)
    lab.note(f"beside the hot wallet the slowest of 20 requests took {worst * 1000:,.0f} ms")
    assert worst < FAIR_SECONDS, f"a request on another wallet took {worst:.1f} s"


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
    return [reply.json() for reply in await asyncio.gather(*posts)]
