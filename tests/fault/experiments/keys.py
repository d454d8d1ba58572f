"""12: one key is sent a thousand times at once, to several apis, and also with another amount."""

import asyncio
from collections import Counter

from tests.fault.laboratory import Laboratory
from tests.support.client import Reply, open_client
from tests.support.database import fetch_value

SENT = 1_000
EFFECTS = "select count(*) from events where payload ->> 'requestId' = $1 and type = $2"


async def send_one_key_a_thousand_times(lab: Laboratory) -> None:
    """Send a deposit, then a transfer: each has one effect and one answer, byte for byte; another amount gets 422."""
    lab.settings["TRANSFER_MODE"] = lab.draw_mode()
    await lab.start_relay()
    await lab.start_worker()
    apis = [await lab.start_api() for _ in range(3)]
    async with open_client(*(api.url for api in apis)) as client:

        async def send(path: str, amount: int, key: str, **fields: str) -> Reply:
            body = {"amount": amount, "requestId": key, **fields}
            return await client.post(path, body, first_url=lab.draw.randrange(3))

        await _one_effect([send("/wallet/alice/deposit", 500, "d") for _ in range(SENT)])
        assert await fetch_value(lab.database_url, EFFECTS, "d", "FundsDeposited") == 1
        transfers = [send("/wallet/alice/transfer", 7, "t", toWalletId="bob") for _ in range(SENT)]
        others = [send("/wallet/alice/transfer", 8, "t", toWalletId="bob") for _ in range(SENT // 10)]
        replies = await asyncio.gather(*transfers, *others)
        statuses = Counter(reply.status for reply in replies)
        # The key belongs to the request that was executed first.
        winner, loser = (replies[:SENT], replies[SENT:])
        if replies[0].status == 422:
            winner, loser = loser, winner
        assert {reply.status for reply in winner} == {201}, statuses
        assert {reply.body for reply in winner} == {winner[0].body}
        assert {reply.json()["code"] for reply in loser} == {"idempotency_key_reused"}, statuses
        assert await fetch_value(lab.database_url, EFFECTS, "t", "TransferDebited") == 1
        assert await fetch_value(lab.database_url, EFFECTS, "t", "TransferCredited") == 1
        assert set(client.seen) <= {201, 422}, client.seen
        lab.note(", ".join(f"{count:,} × {status}" for status, count in sorted(client.seen.items(), key=str)))


async def _one_effect(sending: list["asyncio.Future[Reply] | object"]) -> None:
    replies: list[Reply] = await asyncio.gather(*sending)  # type: ignore[arg-type]
    assert {(reply.status, reply.body) for reply in replies} == {(201, replies[0].body)}
    first = sum("Idempotency-Replayed" not in reply.headers for reply in replies)
    assert first == 1, f"{first} answers say that they are the first"
