"""7 and 8: the network to PostgreSQL is cut at a COMMIT, slow, or silent."""

import asyncio
import time

import aiohttp

from tests.fault.laboratory import Laboratory
from tests.support.client import Client, open_client
from tests.support.postgres_proxy import Loss, PostgresProxy, with_probability
from tests.support.proxy import Proxy
from tests.support.proxy_link import Network
from tests.support.waiting import pause

CUT_PROBABILITY = 0.1
CUTS = 12
HONEST = {"201", "400", "404", "503"}
DEADLINE_SECONDS = 4.0
GRACE_SECONDS = 1.5
"""How much later than its deadline an answer may be on a machine with other load."""
SLOW_SECONDS = 0.1
"""The delay in each direction: 200 ms for each statement of a batch."""
SILENT_PROBES = 12
FORSAKEN_SECONDS_MAX = 25.0
"""A few times as long as a lane waits for an answer before it opens a new connection."""


async def cut_commits(lab: Laboratory) -> None:
    """Some COMMITs never arrive, and the answers to others are lost; the real outcome of each is found."""
    await lab.start_relay()
    await lab.start_worker()
    async with PostgresProxy.to_server_of(lab.database_url) as network:
        for _ in range(2):
            await lab.start_api(DATABASE_URL=network.url_of(lab.database_url), TRANSFER_MODE=lab.draw_mode())
        async with lab.load() as history:
            for loss in lab.draw.sample((Loss.COMMIT, Loss.ANSWER), 2):
                network.lose(loss, with_probability(CUT_PROBABILITY, lab.draw))
                await network.commits_cut(len(network.cut_commits) + CUTS, within=60)
                network.let_commits_pass()
            await history.more_answers(100)
        for loss in Loss:
            lab.note(f"{sum(cut.loss is loss for cut in network.cut_commits)} × {loss.value}")
        seen = lab.tries()
        assert set(seen) <= HONEST, f"a client saw more than latency and 503: {seen}"
        await lab.stop_apis()
    await lab.start_api()


async def silence_and_slow_the_network(lab: Laboratory) -> None:
    """Every request is answered by its deadline, and the system recovers with the network."""
    lab.settings["REQUEST_DEADLINE_SECONDS"] = f"{DEADLINE_SECONDS:g}"
    lab.settings["TRANSFER_MODE"] = lab.draw_mode()
    await lab.start_relay()
    await lab.start_worker()
    async with Proxy.to_server_of(lab.database_url) as network:
        api = await lab.start_api(DATABASE_URL=network.url_of(lab.database_url))
        async with lab.load(concurrency=8) as history, open_client(api.url) as client:
            network.slow(SLOW_SECONDS)
            await history.more_answers(20)
            network.slow(0)
            await history.more_answers(50)
            network.silence()
            took = await asyncio.gather(*(_probe(client, api.url, number) for number in range(SILENT_PROBES)))
            lab.note(f"in silence {SILENT_PROBES} requests were answered 503 within {max(took):.1f} s")
            network.speak()
            await history.more_answers(50)
            network.silence()
            await pause(lab.seconds / 10)
            network.cut()
            network.speak()
            await history.more_answers(50)
            # The connections that are open now stay silent forever; new ones work.
            network.silence()
            network.network = Network()
            await history.more_answers(50, within=FORSAKEN_SECONDS_MAX)
        seen = lab.tries()
        assert set(seen) <= HONEST, f"a client saw more than latency and 503: {seen}"
        await lab.stop_apis()
    await lab.start_api()


async def _probe(client: Client, url: str, number: int) -> float:
    began = time.monotonic()
    try:
        reply = await client.post_once(f"/wallet/silent-{number}/deposit", {"amount": 1, "requestId": "s"}, url=url)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise AssertionError(f"in silence a request got no answer: {error!r}") from error
    took = time.monotonic() - began
    assert reply.status == 503, f"in silence a request was answered {reply.status}"
    assert took < DEADLINE_SECONDS + GRACE_SECONDS, f"a 503 took {took:.1f} s"
    return took
