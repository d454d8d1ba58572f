"""One run: send everything, wait for the worker's totals, read every wallet, check.

Sending ends early if the caller asks for it or the service no longer responds; what was sent until then is still
checked. Bounds: at most `concurrency` requests at once, for reads too; no wait lasts longer than `patience_seconds`
without progress.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from wallet.stress.client import Client, UnreadableWallet, open_client
from wallet.stress.exchanges import TriedRequest
from wallet.stress.findings import Evidence, RunCheck, check_run
from wallet.stress.histories import read_totals, read_wallet
from wallet.stress.operations import Plan, WalletId
from wallet.stress.outcomes import ExpectedTotals, outcomes_of, totals_of

POLL_SECONDS: Final = 0.2

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Options:
    """What to run, and against which service."""

    url: str
    request_count: int
    concurrency: int
    wallet_count: int
    seed: int
    run_id: str
    patience_seconds: float
    api_key: str | None = None


class Watcher(Protocol):
    """Receives the progress of a run."""

    def reached(self) -> None:
        """The service responds; sending begins."""

    def sent(self, count: int) -> None:
        """This many more requests are finished."""

    def agreed(self, count: int) -> None:
        """This many wallets have the right totals."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a run did, and what its checks found."""

    exchanges: Sequence[TriedRequest]
    sending_seconds: float
    catching_up_seconds: float
    has_caught_up: bool
    checks: Sequence[RunCheck]

    @property
    def is_clean(self) -> bool:
        """Returns whether every promise was kept."""
        return not any(check.faults for check in self.checks)


async def run_monkey(options: Options, watcher: Watcher, stop: asyncio.Event) -> Findings:
    """Run and check; `stop` ends the sending. Raises Unreachable if nothing answers at the address."""
    plan = Plan(options.seed, options.run_id, options.wallet_count)
    async with open_client(
        options.url, concurrency=options.concurrency, patience_seconds=options.patience_seconds, api_key=options.api_key
    ) as client:
        await client.expect_reachable()
        watcher.reached()
        began = time.monotonic()
        exchanges = await _send_all(client, plan, options, watcher, stop)
        sent = time.monotonic()
        evidence = Evidence(plan.wallet_ids, exchanges)
        has_caught_up = await _wait_for_totals(client, evidence, options, watcher)
        caught_up = time.monotonic()
        await _read_wallets(client, evidence, options)
    return Findings(exchanges, sent - began, caught_up - sent, has_caught_up, check_run(evidence))


async def _send_all(
    client: Client, plan: Plan, options: Options, watcher: Watcher, stop: asyncio.Event
) -> list[TriedRequest]:
    exchanges: list[TriedRequest] = []
    answered_at_seconds = time.monotonic()
    is_gone = asyncio.Event()

    async def send(number: int) -> None:
        nonlocal answered_at_seconds
        if stop.is_set() or is_gone.is_set():
            return
        exchange = await client.send(plan.request(number))
        exchanges.append(exchange)
        if exchange.answer is not None:
            answered_at_seconds = exchange.ended_at_seconds
        elif exchange.ended_at_seconds - answered_at_seconds >= options.patience_seconds:
            # No request was answered in the meantime; sending a thousand more would take hours and give the same
            # result.
            is_gone.set()
        watcher.sent(len(exchanges))

    await _for_each(range(options.request_count), send, at_once=options.concurrency)
    return sorted(exchanges, key=lambda exchange: exchange.request.number)


async def _wait_for_totals(client: Client, evidence: Evidence, options: Options, watcher: Watcher) -> bool:
    """Read the totals until all match the answers, or none has changed for `patience_seconds`. Returns whether all
    match.
    """
    expected = totals_of(outcomes_of(evidence.exchanges))
    changed_at_seconds = time.monotonic()

    async def read(wallet_id: WalletId) -> None:
        nonlocal changed_at_seconds
        try:
            totals = await read_totals(client, wallet_id)
        except UnreadableWallet as error:
            evidence.unreadable[wallet_id] = str(error)
            return
        if evidence.totals.get(wallet_id) != totals:
            evidence.totals[wallet_id] = totals
            changed_at_seconds = time.monotonic()

    lagging = list(evidence.wallet_ids)
    while lagging:
        await _for_each(lagging, read, at_once=options.concurrency)
        lagging = [
            wallet_id
            for wallet_id, totals in evidence.totals.items()
            if totals != expected.get(wallet_id, ExpectedTotals()) and wallet_id not in evidence.unreadable
        ]
        watcher.agreed(len(evidence.totals) - len(lagging))
        if time.monotonic() - changed_at_seconds >= options.patience_seconds:
            break
        await asyncio.sleep(POLL_SECONDS if lagging else 0)
    return not lagging and not evidence.unreadable


async def _read_wallets(client: Client, evidence: Evidence, options: Options) -> None:
    async def read(wallet_id: WalletId) -> None:
        try:
            evidence.shown[wallet_id] = await read_wallet(client, wallet_id)
        except UnreadableWallet as error:
            evidence.unreadable[wallet_id] = str(error)

    await _for_each(
        [wallet_id for wallet_id in evidence.wallet_ids if wallet_id not in evidence.unreadable],
        read,
        at_once=options.concurrency,
    )


async def _for_each(items: Iterable[Item], do: Callable[[Item], Awaitable[None]], *, at_once: int) -> None:
    rest = iter(items)

    async def take_turns() -> None:
        for item in rest:
            await do(item)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(at_once):
            tasks.create_task(take_turns())
