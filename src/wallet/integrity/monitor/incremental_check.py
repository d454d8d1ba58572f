"""The incremental check: checks the batches sealed since the previous one, on one snapshot.

| part | proves | statements |
|---|---|---|
| the remembered head | I9: it is still in the journal, with its chain: no tail was cut off or rewritten | 3 |
| batches | I5, I9: positions, chain, digests, payloads, outcomes | 3 for each page |
| changed wallets | I2, I3, I4: each event follows from the previous one, the row equals the last event | 1 |
| sums | I1: the amount in flight by the events equals that of the unfinished transfers | 3, when caught up |
| balances | I1: the sum of all balances equals the sums of the events | 2, when caught up, twice a minute at most |
| worker | I17: how far it is behind, and which events it lost | 3, and 2 for each page that still waits |

Bounds: EVENTS_MAX events and SECONDS_MAX for each check (or one page more). The next check reads the rest and begins
at once. A failed check is retried with half the events in a page, so that a check of uncached tables on a slow disk
ends within the time limit of a database transaction. Because all reads use one snapshot, work in progress is not
reported as a fault. A check changes the state only once, at its end.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from asyncpg import Record

from wallet.domain.events import WalletCreated
from wallet.domain.money import ZERO, add, format_money, subtract
from wallet.integrity.checks.batches import BatchProof, read_payload
from wallet.integrity.checks.conservation import too_much_or_little
from wallet.integrity.checks.histories import HistoryWalk
from wallet.integrity.checks.journal import Chain, pages, prove_batches
from wallet.integrity.findings import Check, Finding, Unobserved
from wallet.integrity.monitor.lag import Followed, follow_worker
from wallet.integrity.monitor.state import (
    PAGE_EVENTS_MAX,
    SQL,
    SUMMED,
    EventWithoutEffect,
    IncrementalResult,
    JournalHead,
    MonitorState,
    Start,
    Sums,
    sums_of,
)
from wallet.integrity.snapshot import EVOLVED, Snapshot
from wallet.integrity.snapshot import SQL as PROOF_SQL

EVENTS_MAX: Final = 10_000
"""Checking this many takes a quarter of a second: the worker in the same process waits no longer than that, and the
lease is renewed in time.
"""
SECONDS_MAX: Final = 2.0
"""The time limit for checking batches. An incremental check is one database transaction, which the server ends after 8
seconds.
"""
UNSEALED_MAX: Final = 1_000
"""If more batches than this have no position, no relay is running; the sums are then not compared until one runs."""
LOST_MAX: Final = 10
BALANCE_SUM_SECONDS_MIN: Final = 30.0
"""The shortest interval between two sums over all wallets: a balance changed directly in the database is found within a
minute.
"""
BALANCE_SUM_REST: Final = 50.0
"""The interval between two sums is this many times the duration of the last one, so they use at most a fiftieth of the
time.
"""

_EVENTS_OF_WALLET = dict[tuple[int, str], list["Record"]]


class IncrementalCheck:
    """One incremental check, from where the previous one ended. `findings` are complete when `run` has returned."""

    def __init__(
        self,
        snapshot: Snapshot,
        start: Start,
        *,
        waiting: Sequence[EventWithoutEffect] = (),
        page_events: int = PAGE_EVENTS_MAX,
    ) -> None:
        self._snapshot = snapshot
        self._waiting = list(waiting)
        self._page_events = page_events
        self._began_at = start.head.position
        self.followed: Followed | None = None
        self._chain = Chain(start.head.position, start.head.chain)
        self._batches = BatchProof()
        self._walk = HistoryWalk()
        self._conservation = Finding(Check.CONSERVATION, "event")
        self._heads = Finding(Check.HEADS, "head")
        self._amounts: dict[str, Decimal] = defaultdict(lambda: ZERO)
        self._before = start.sums
        self._now: Sums | None = None
        self.lost: list[JournalHead] = []
        self.is_off_balance = False

    @property
    def findings(self) -> list[Finding]:
        """Returns the findings, one for each check."""
        proved = [self._batches.digests, self._batches.payloads, self._batches.outcomes]
        effects = [] if self.followed is None else [self.followed.effects]
        return [self._heads, self._chain.finding, *proved, *self._walk.findings, self._conservation, *effects]

    async def run(self, last: IncrementalResult | None) -> IncrementalResult:
        """Run the check. Raises one of DATABASE_ERRORS, and then there are no findings."""
        begun = time.monotonic()
        end = await self._find_remembered_heads(last)
        events = await self._prove_batches()
        await self._prove_wallets(events)
        is_caught_up = self._chain.position >= end.position
        if is_caught_up:
            # If the journal ends before the position reached earlier, that fault is already recorded: continue from the
            # journal's end.
            self._chain.position, self._chain.value = end.position, end.chain
        sums = self._before.plus(sums_of(self._amounts))
        in_flight = await self._prove_in_flight(sums) if is_caught_up else sums.in_flight
        followed_from = self._began_at if last is None else last.lag.position
        self.followed = await follow_worker(self._snapshot, followed_from, self._waiting, self._page_events)
        return IncrementalResult(
            taken_at=self._snapshot.taken_at,
            seconds=time.monotonic() - begun,
            head=JournalHead(self._chain.position, self._chain.value),
            sums=sums,
            in_flight=in_flight,
            lag=self.followed.lag,
            is_caught_up=is_caught_up,
        )

    async def _find_remembered_heads(self, last: IncrementalResult | None) -> JournalHead:
        """Compare the remembered head with the journal. Returns where the journal ends."""
        rows = await self._snapshot.rows(SQL.last_sealed)
        end = JournalHead(rows[0]["position"], rows[0]["chain"]) if rows else JournalHead()
        ended = Chain(end.position, end.chain)
        ended.end_at(await self._snapshot.row(PROOF_SQL.head))
        _merge(self._chain.finding, ended.finding)
        if last is not None:
            self.lost = await find_lost(self._snapshot, [last.head], self._heads)
        return end

    async def _prove_batches(self) -> _EVENTS_OF_WALLET:
        by_wallet: _EVENTS_OF_WALLET = defaultdict(list)
        count, begun = 0, time.monotonic()
        async for page in pages(self._snapshot, self._chain.position, self._page_events):
            for batch in page:
                self._chain.follow(batch)
            for event in await prove_batches(self._snapshot, page, self._batches, Unobserved()):
                count += 1
                by_wallet[event["bucket"], event["wallet_id"]].append(event)
                if event["type"] in SUMMED:
                    self._amounts[event["type"]] = add(self._amounts[event["type"]], event["amount"])
            if count >= EVENTS_MAX or time.monotonic() - begun > SECONDS_MAX:
                break
        for events in by_wallet.values():
            events.sort(key=lambda event: event["version"])
        return by_wallet

    async def _prove_wallets(self, by_wallet: _EVENTS_OF_WALLET) -> None:
        keys = sorted(by_wallet)
        rows = await self._snapshot.rows(
            PROOF_SQL.wallets_around,
            [bucket for bucket, _ in keys],
            [wallet_id for _, wallet_id in keys],
            [by_wallet[key][0]["version"] for key in keys],
        )
        for row in rows if keys else ():
            self._prove_wallet(row, by_wallet[row["bucket"], row["wallet_id"]])
        self._walk.finish()

    def _prove_wallet(self, around: Record, events: list[Record]) -> None:
        rows = [_as_history(event, around) for event in events]
        first = events[0]
        if first["version"] > 1 and around["balance_before"] is None:
            self._walk.versions.add_fault(
                "events",
                f"wallet {first['wallet_id']}, version {first['version']}",
                expected=f"version {first['version'] - 1} before it",
                found="none",
            )
            before, balance, occurred_at = first["version"], first["balance_after"], first["occurred_at"]
            rows_after = rows[1:]
        else:
            before, balance, occurred_at = first["version"] - 1, around["balance_before"], around["before_at"]
            rows_after = rows
        self._walk.go_to(rows[0], version=before, balance=balance or ZERO, occurred_at=occurred_at)
        self._walk.take(rows_after)
        if around["last_version"] > events[-1]["version"]:
            # Later events are checked by a later incremental check. The wallet's row is compared with the last of them
            # now.
            self._walk.go_to(
                rows[-1],
                version=around["last_version"],
                balance=around["last_balance"],
                occurred_at=around["last_at"],
            )

    async def _prove_in_flight(self, sums: Sums) -> Decimal:
        """Compare the amount in flight by the events with that by the unfinished transfers; includes events without a
        position.
        """
        [transfers] = await self._snapshot.rows(SQL.in_flight)
        [unsealed] = await self._snapshot.rows(SQL.unsealed_count, UNSEALED_MAX + 1)
        if unsealed["count"] <= UNSEALED_MAX:
            rows = await self._snapshot.rows(SQL.unsealed_sums, UNSEALED_MAX + 1)
            self._now = sums.plus(sums_of({row["type"]: row["amount"] for row in rows}))
            by_events = self._now.in_flight
            if by_events != transfers["amount"]:
                self._conservation.add_fault(
                    "transfers, events",
                    f"the sums up to position {self._chain.position}",
                    expected=f"in flight {format_money(transfers['amount'])}, by the unfinished transfers",
                    found=f"in flight {_signed(by_events)}, by what was debited, credited and returned",
                )
        return Decimal(transfers["amount"])

    async def sum_balances(self) -> float | None:
        """Compare the sum of all balances with the sums so far. Returns the duration, or None if they can't be
        compared.

        Call this last, and only if the check has caught up. Raises one of DATABASE_ERRORS.
        """
        if self._now is None or self.lost:
            return None
        begun = time.monotonic()
        await self._snapshot.rows(SQL.read_whole_tables)
        [wallets] = await self._snapshot.rows(PROOF_SQL.sum_of_balances)
        if wallets["balance"] != self._now.balances:
            self._conservation.add_fault(
                "wallets, events",
                f"the sum over {wallets['wallet_count']} wallets",
                expected="the balances that all events give",
                found=too_much_or_little(subtract(wallets["balance"], self._now.balances)),
            )
            self.is_off_balance = True
        return time.monotonic() - begun


def is_balance_sum_due(state: MonitorState, now: datetime) -> bool:
    """Returns whether the balances of all wallets may be summed again. This also works if the clock was put back."""
    last = state.balance_sum
    if last is None:
        return True
    return abs((now - last.at).total_seconds()) >= max(BALANCE_SUM_SECONDS_MIN, last.seconds * BALANCE_SUM_REST)


def start_of(state: MonitorState) -> Start | None:
    """Returns where the next incremental check begins, or None until a full check has summed the existing events.

    The sums of a full check replace those of the incremental checks once these are beyond its position, so a wrong sum
    does not persist.
    """
    result, start = state.incremental, state.start
    if result is None:
        return start
    if start is not None and start.head.position <= result.head.position:
        return start
    return Start(result.head, result.sums)


def apply(state: MonitorState, check: IncrementalCheck, start: Start, result: IncrementalResult) -> None:
    """Store the results of the check in the state."""
    state.incremental = result
    if check.followed is not None:
        state.waiting = check.followed.waiting
    if result.seconds < SECONDS_MAX / 2:
        state.page_events = min(state.page_events * 2, PAGE_EVENTS_MAX)
    if state.start is start:
        state.start = None
    state.lost = [*state.lost, *(head for head in check.lost if head not in state.lost)][-LOST_MAX:]


async def find_lost(snapshot: Snapshot, heads: list[JournalHead], finding: Finding) -> list[JournalHead]:
    """Returns the heads seen earlier that are no longer in the journal."""
    lost = []
    for head in heads:
        finding.checked_count += 1
        row = await snapshot.row(SQL.anchor, head.position)
        if head.position > 0 and (row is None or row["chain"] != head.chain):
            lost.append(head)
            finding.add_fault(
                "journal",
                f"position {head.position}",
                expected=f"chain {head.chain.hex()}, as the integrity monitor saw it",
                found="no such position: the tail was cut off" if row is None else f"chain {row['chain'].hex()}",
            )
    return lost


def _as_history(event: Record, around: Record) -> tuple[Any, ...]:
    """Returns the event as a row of `histories`. Another check compares its payload with the columns."""
    payload = read_payload(event["payload"]) if event["type"] == WalletCreated.__name__ else None
    return (
        event["bucket"],
        event["wallet_id"],
        event["version"],
        event["type"],
        event["amount"],
        event["balance_after"],
        event["occurred_at"],
        payload.get("currency") if isinstance(payload, dict) else None,
        around["wallet_version"],
        around["balance"],
        *(around[f"stored_{name}"] for name in EVOLVED),
    )


def _merge(into: Finding, other: Finding) -> None:
    if other.first is not None:
        first = other.first
        into.add_fault(first.table, first.row, expected=first.expected, found=first.found, count=other.fault_count)


def _signed(amount: Decimal) -> str:
    return f"{'-' if amount.is_signed() else ''}{format_money(abs(amount))}"
