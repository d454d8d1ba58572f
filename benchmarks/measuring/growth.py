"""Compares a long log with an almost empty one: the effect of a year of operation on the service."""

import json
import secrets
import time
import urllib.request
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from benchmarks.books import UNPUBLISHED, drain, expect_right_books, now, wait_until
from benchmarks.figures import figure
from benchmarks.ground import Ground, checkpoint, query
from benchmarks.loading import Books
from benchmarks.measuring.turns import Tell
from benchmarks.scenarios import BULK_CONNECTIONS, BULK_SIZE, EMPTY_LOG_DEPOSITS, EMPTY_LOG_PAGE, Pressure, Scenario
from benchmarks.verdicts import InvalidRun, Measured
from benchmarks.wrk import press, read_histories

EVENTS_PER_WALLET: Final = 300
PAGE_SIZE: Final = 50
PAGED_PREFIX: Final = "h"
PAGED_WALLETS: Final = 100
"""The wallets of the empty log whose first history page is full, so that the compared pages have the same size."""
RESTART_SECONDS_MAX: Final = 30.0
RESTART_POLL_SECONDS: Final = 0.01
EFFECT: Final = """
select count(*)
from events e
join processed_events p on p.bucket = e.bucket and p.event_id = e.event_id
where e.bucket = wallet_bucket('w0') and e.wallet_id = 'w0' and e.payload ->> 'requestId' = $1
"""


@dataclass(slots=True)
class Felt:
    """The figures of one of the two logs."""

    deposits: list[float] = field(default_factory=list)
    pages_ms: list[float] = field(default_factory=list)


def measure(ground: Ground, scenario: Scenario, measured: Measured, tell: Tell) -> None:
    """Measures restarts of the worker on the long log, then bulk deposits and history pages on both logs in turns."""
    del scenario
    wallet_count = ground.effort.grown_events // EVENTS_PER_WALLET
    tell(f"loading {ground.effort.grown_events:,} events")
    small = (Books(wallet_count, 1), Books(PAGED_WALLETS, PAGE_SIZE + 10, prefix=PAGED_PREFIX))
    empty, grown = Felt(), Felt()
    with ground.loaded(*small) as small_url, ground.loaded(Books(wallet_count, EVENTS_PER_WALLET - 1)) as grown_url:
        measured.figures["worker restart"] = figure(*_restart_worker(ground, grown_url, tell))
        for number in range(1, ground.effort.runs + 1):
            with ground.database(small_url) as url:
                _feel(ground, url, empty, wallet_count, prefix=PAGED_PREFIX, paged=PAGED_WALLETS)
            _feel(ground, grown_url, grown, wallet_count, prefix="w", paged=wallet_count)
            tell(
                f"run {number} of {ground.effort.runs}, long and empty log: bulk deposits {grown.deposits[-1]:,.0f}/s"
                f" and {empty.deposits[-1]:,.0f}/s, a page {grown.pages_ms[-1]:.2f} ms and {empty.pages_ms[-1]:.2f} ms"
            )
        measured.raw["verify"] = expect_right_books(grown_url, directory=ground.directory)
        [(measured.raw["database_bytes"],)] = query(grown_url, "select pg_database_size(current_database())")
    _keep(measured, empty, grown)


def _keep(measured: Measured, empty: Felt, grown: Felt) -> None:
    measured.raw |= {"deposits_empty": empty.deposits, "deposits_grown": grown.deposits}
    measured.raw |= {"page_ms_empty": empty.pages_ms, "page_ms_grown": grown.pages_ms}
    measured.figures["bulk deposits"] = figure(*grown.deposits)
    measured.figures["history page"] = figure(*grown.pages_ms)
    measured.against[EMPTY_LOG_DEPOSITS] = figure(*empty.deposits)
    measured.against[EMPTY_LOG_PAGE] = figure(*empty.pages_ms)


def _feel(ground: Ground, url: str, felt: Felt, wallet_count: int, *, prefix: str, paged: int) -> None:
    effort = ground.effort
    deposits = Pressure("deposit", BULK_CONNECTIONS, wallet_count, BULK_SIZE)
    with ground.service(url) as service:
        api = service.start_api()
        checkpoint(url)
        read = partial(read_histories, api.url, prefix=prefix, wallet_count=paged, page_size=PAGE_SIZE)
        read(seconds=1)  # Fills the caches.
        pages = read(seconds=effort.history_seconds)
        felt.pages_ms.append(pages.p50_ms)
        press(api.url, deposits, effort.warm_up_seconds)
        felt.deposits.append(press(api.url, deposits, effort.run_seconds).per_second)


def _restart_worker(ground: Ground, url: str, tell: Tell) -> list[float]:
    """Returns the seconds from each start of the worker's process to the effect of a message that waited for it."""
    seconds: list[float] = []
    with ground.vhost() as rabbitmq_url, ground.service(url, rabbitmq_url) as service:
        api = service.start_api()
        service.start("relay")
        service.start("worker").stop()
        checkpoint(url)
        for number in range(1, ground.effort.restarts + 1):
            key = f"restart-{secrets.token_hex(4)}"
            _deposit(api.url, key)
            wait_until(lambda: not query(url, UNPUBLISHED)[0][0], "the deposit is unpublished")
            began = time.monotonic()
            worker = service.spawn("worker")
            while not query(url, EFFECT, key)[0][0]:
                if time.monotonic() - began > RESTART_SECONDS_MAX:
                    raise InvalidRun(f"the worker processed no event within {RESTART_SECONDS_MAX:g} s of its start")
                time.sleep(RESTART_POLL_SECONDS)
            seconds.append(time.monotonic() - began)
            tell(f"worker restart {number} of {ground.effort.restarts}: {seconds[-1]:.2f} s")
            drain(url, since=now(url))
            worker.stop()
    return seconds


def _deposit(api_url: str, key: str) -> None:
    body = json.dumps({"amount": "12.5", "requestId": key}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{api_url}/wallet/w0/deposit", data=body, headers=headers)  # noqa: S310 - Local.
    with urllib.request.urlopen(request, timeout=RESTART_SECONDS_MAX) as response:  # noqa: S310 - Local.
        response.read()
