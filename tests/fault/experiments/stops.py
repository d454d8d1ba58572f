"""14: SIGTERM of every process under load, one after the other."""

import asyncio
from collections import Counter

from tests.fault.laboratory import Laboratory
from tests.support.client import Reply, open_client
from tests.support.database import connected, fetch_rows
from tests.support.waiting import pause
from wallet.stress.exchanges import ServiceAnswer

ANSWERS_BETWEEN = 150
ANSWERED = {"201", "400", "404", "no answer"}
NEVER_READ = {
    "connection refused",
    # The listener closes and resets the connections in its queue; or a keep-alive connection is closed as idle
    # while a request is being sent on it.
    "connection lost",
    "connection closed without an answer",
}
LOCKED = "/wallet/locked/deposit"
UNDER_WAY = 20
DEFERRED_SECONDS = 1.0
DECIDED = "select wallet_id, request_id, count(*) from api_audit where method = 'POST' group by 1, 2"


async def stop_everything_in_turn(lab: Laboratory) -> None:
    """Every process ends with exit code 0, and a client that retries at another api sees no error."""
    await lab.start_api()
    await lab.start_api()
    relay, worker = await lab.start_relay(), await lab.start_worker()
    # A bulk request has one audit trail row for all of its operations; here rows and answers are counted.
    async with lab.load(bulk_senders=0) as history:
        for _ in range(2):
            api = lab.apis[0]
            await lab.stop(api)
            await history.more_answers(ANSWERS_BETWEEN)
            await lab.start_api(PORT=str(api.port))
            await history.more_answers(ANSWERS_BETWEEN)
        await lab.stop(relay)
        await history.more_answers(ANSWERS_BETWEEN)
        await lab.start_relay()
        await lab.stop(worker)
        await history.more_answers(ANSWERS_BETWEEN)
        await lab.start_worker()
        await history.more_answers(ANSWERS_BETWEEN)
    seen, reasons = lab.tries(), lab.reasons()
    assert set(seen) <= ANSWERED, f"a stop was seen by a client: {seen}"
    assert set(reasons) <= NEVER_READ, f"a stop was seen by a client: {reasons}"
    lab.note("sent again: " + ", ".join(f"{count} × {reason}" for reason, count in sorted(reasons.items())))
    await _every_decision_was_answered(lab)
    await _stop_with_requests_under_way(lab)


async def _stop_with_requests_under_way(lab: Laboratory) -> None:
    """Stop an api that has read requests: they are executed and answered. A locked wallet keeps them waiting."""
    api = lab.apis[0]
    async with open_client(api.url) as client, connected(lab.database_url) as outside:
        await client.post(LOCKED, {"amount": 1, "requestId": "locked"})
        async with outside.transaction():
            await outside.execute("select from wallets where wallet_id = 'locked' for update")
            asked = [
                asyncio.create_task(
                    client.post_once(LOCKED, {"amount": 1, "requestId": f"locked-{number}"}, url=api.url)
                )
                for number in range(UNDER_WAY)
            ]
            await lab.have_been_read(UNDER_WAY, api)
            stopping = asyncio.create_task(lab.stop(api))
            await pause(DEFERRED_SECONDS)
            early = [task for task in asked if task.done()]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        await stopping
    seen = Counter(reply.status if isinstance(reply, Reply) else repr(reply) for reply in replies)
    assert not early, f"a stop broke off requests under way: {seen}"
    assert seen == {201: UNDER_WAY}, f"a stop broke off requests under way: {seen}"
    await lab.start_api(PORT=str(api.port))


async def _every_decision_was_answered(lab: Laboratory) -> None:
    """Check that each key has as many audit trail rows as answered attempts."""
    answered = Counter(
        (exchange.request.operation.wallet_id, exchange.request.operation.key)
        for history in lab.histories
        for exchange in history.exchanges
        for attempt in exchange.tries
        if isinstance(attempt, ServiceAnswer)
    )
    decided = {(wallet_id, key): count for wallet_id, key, count in await fetch_rows(lab.database_url, DECIDED)}
    unanswered = {key: (count, answered[key]) for key, count in decided.items() if count != answered[key]}
    assert not unanswered, f"decided and answered so many times: {unanswered}"
