"""Measures deposits at a constant rate, from the scheduled start of the request to the commit of the worker's row.

- Open loop: every request has a scheduled time, independent of earlier answers, and its latency is measured from that
  time. If the service stalls, this includes the delay of all requests that were due meanwhile.
- The worker's row is visible after its COMMIT, whose time PostgreSQL stores with `track_commit_timestamp`. The time of
  the answer is read from the same clock, because everything runs on one machine. The setting slows PostgreSQL down, so
  this scenario has a separate server.
- After the load every answered key must have exactly one event.
"""

import asyncio
import gc
import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
import uvloop

from benchmarks.books import drain, expect_right_books, now
from benchmarks.figures import figure, percentile
from benchmarks.ground import SEEDED, Ground, checkpoint, query
from benchmarks.measuring.turns import Tell
from benchmarks.scenarios import WALLETS, Scenario
from benchmarks.verdicts import InvalidRun, Measured

DEPOSITS_PER_SECOND: Final = 500
WARM_UP_SECONDS: Final = 2
CREATED: Final = 201
ANSWER_SECONDS_MAX: Final = 15

EFFECTS: Final = """
select e.payload ->> 'requestId', extract(epoch from pg_xact_commit_timestamp(p.xmin))::double precision
from events e
left join processed_events p on p.bucket = e.bucket and p.event_id = e.event_id and p.status = 'success'
where e.type = 'FundsDeposited' and e.payload ->> 'requestId' like $1
"""


@dataclass(slots=True)
class Offered:
    """One request: its key, when it was due, and time and status of its answer. Times are those of the system clock."""

    key: str
    due_at: float
    answered_at: float = 0.0
    status: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """The latencies of one run, in milliseconds."""

    answers: list[float]
    effects: list[float]


def measure(ground: Ground, scenario: Scenario, measured: Measured, tell: Tell) -> None:
    """Sends the deposits, waits until all are processed, and reads when each effect became visible."""
    del scenario
    effort, runs = ground.effort, list[Run]()
    with ground.second_postgres(track_commit_timestamp="on") as server, ground.loaded(SEEDED, server=server) as url:
        with ground.vhost() as rabbitmq_url, ground.service(url, rabbitmq_url) as service:
            api = service.start_api()
            service.start("relay")
            service.start("worker")
            checkpoint(url)
            _run(api.url, url, WARM_UP_SECONDS)
            for number in range(1, effort.open_loop_runs + 1):
                runs.append(_run(api.url, url, effort.open_loop_seconds))
                p99 = percentile(runs[-1].answers, 99)
                tell(f"run {number} of {effort.open_loop_runs}: answers within {p99:,.1f} ms (p99)")
        measured.raw["verify"] = expect_right_books(url, directory=ground.directory)
    measured.figures["answer p50"] = figure(*(percentile(run.answers, 50) for run in runs))
    measured.figures["answer p99"] = figure(*(percentile(run.answers, 99) for run in runs))
    measured.figures["to wallet_stats p99"] = figure(*(percentile(run.effects, 99) for run in runs))
    measured.raw["runs"] = [
        {name: {f"p{p}": percentile(values, p) for p in (50, 90, 99, 99.9, 100)} for name, values in pairs.items()}
        for pairs in ({"answer_ms": run.answers, "to_wallet_stats_ms": run.effects} for run in runs)
    ]


def _run(api_url: str, database_url: str, seconds: int) -> Run:
    run_id = secrets.token_hex(4)
    gc.collect()
    gc.disable()  # A pause of this process would count as the service's latency.
    try:
        offered = uvloop.run(_offer(api_url, run_id, seconds))
    finally:
        gc.enable()
    drain(database_url, since=now(database_url))
    refused = [each for each in offered if each.status != CREATED]
    if refused:
        raise InvalidRun(f"{len(refused):,} of {len(offered):,} deposits had no answer 201; the first: {refused[0]}")
    return _follow(offered, query(database_url, EFFECTS, f"{run_id}-%"))


def _follow(offered: Sequence[Offered], effects: Sequence[tuple[str, float | None]]) -> Run:
    """Checks that each answered key has one event with its effect. Returns the latencies. Raises InvalidRun."""
    seen = dict(effects)
    if len(effects) != len(offered) or seen.keys() != {each.key for each in offered}:
        raise InvalidRun(f"{len(offered):,} deposits were answered, but {len(effects):,} are in the log")
    waits = []
    for each in offered:
        visible_at = seen[each.key]
        if visible_at is None:
            raise InvalidRun(f"the deposit {each.key} had no effect")
        # The worker may commit before the client has read the answer.
        waits.append(max(visible_at - each.answered_at, 0.0) * 1000)
    return Run([(each.answered_at - each.due_at) * 1000 for each in offered], waits)


async def _offer(api_url: str, run_id: str, seconds: int) -> list[Offered]:
    draw = random.Random(run_id)
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS_MAX)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    async with (
        aiohttp.ClientSession(api_url, connector=connector, timeout=timeout) as session,
        asyncio.TaskGroup() as tasks,
    ):
        began_at = time.time() + 0.1
        offered = [
            Offered(f"{run_id}-{number}", began_at + number / DEPOSITS_PER_SECOND)
            for number in range(seconds * DEPOSITS_PER_SECOND)
        ]
        for each in offered:
            await asyncio.sleep(each.due_at - time.time())
            tasks.create_task(_deposit(session, f"/wallet/w{draw.randrange(WALLETS)}/deposit", each))
    return offered


async def _deposit(session: aiohttp.ClientSession, path: str, each: Offered) -> None:
    try:
        async with session.post(path, json={"amount": "12.5", "requestId": each.key}) as response:
            await response.read()
            each.status = response.status
    except (aiohttp.ClientError, TimeoutError):
        pass
    each.answered_at = time.time()
