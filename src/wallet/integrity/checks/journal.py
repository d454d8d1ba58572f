"""I9: checks the journal from its first position to its head, then the batches that are not sealed yet. batches.py
checks each single batch.

Batches are read a page at a time with their events and operations, by key. The rows of one batch were written together
and are read together, so nothing has to be sorted, and memory is bounded by a page (or by one batch).
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import accumulate, takewhile
from typing import Final
from uuid import UUID

from asyncpg import Record

from wallet.domain.events import TransferCompleted, TransferCredited
from wallet.domain.identifiers import BIGINT_MAX, WalletId, bucket_of
from wallet.integrity.checks.batches import BatchProof, name_of_batch, read_payload
from wallet.integrity.findings import Check, Finding, Observer, counted
from wallet.integrity.snapshot import SQL, Snapshot
from wallet.wire.digest import GENESIS, chain_of

BATCHES_READ: Final = 1_000
EVENTS_READ: Final = 2_000
OVERDUE: Final = timedelta(minutes=5)
"""If a batch is unsealed or unpublished for this long, no relay is running; the batch is late, not wrong."""

_MINUTES: Final = OVERDUE // timedelta(minutes=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS_MAX: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
_BIGINT_MIN: Final = -BIGINT_MAX - 1


async def prove_journal(snapshot: Snapshot, observer: Observer) -> list[Finding]:
    """Follow the chain and check each batch."""
    walk = JournalWalk(observer)
    await walk.follow(snapshot)
    await walk.end(snapshot)
    return walk.findings


class JournalWalk:
    """Follows the chain, starting at a row that was checked before, or at the beginning if there is none."""

    def __init__(self, observer: Observer, position: int = 0, chain: bytes = GENESIS) -> None:
        self.chain = Chain(position, chain)
        self._batches = BatchProof()
        self._observer = observer

    @property
    def findings(self) -> list[Finding]:
        """Returns the findings so far."""
        return [self.chain.finding, self._batches.digests, self._batches.payloads, self._batches.outcomes]

    async def follow(self, snapshot: Snapshot, events_max: int | None = None) -> bool:
        """Check the sealed batches up to the last, or up to a number of events. Returns whether it reached the last."""
        count = 0
        async for page in pages(snapshot, self.chain.position):
            events = await self._prove(snapshot, page)
            count += len(events)
            if events_max is not None and count >= events_max:
                return False
        return True

    async def end(self, snapshot: Snapshot) -> None:
        """Compare the last row with the head, and check the batches that are not sealed yet; warn of what waits."""
        self.chain.end_at(await snapshot.row(SQL.head))
        overdue_count = 0
        async for page in _pages(snapshot, SQL.unsealed_batches, "seq", _BIGINT_MIN):
            overdue_count += sum(made_at(batch) < snapshot.taken_at - OVERDUE for batch in page)
            await prove_batches(snapshot, page, self._batches, self._observer)
        if overdue_count:
            self.chain.finding.warnings.append(
                f"{counted(overdue_count, 'batch')} waited for more than {_MINUTES} minutes to be sealed: "
                "is a relay running?"
            )
        await _warn_of_unpublished(snapshot, self.chain.finding)

    async def _prove(self, snapshot: Snapshot, page: Sequence[Record]) -> Sequence[Record]:
        for batch in page:
            self.chain.follow(batch)
        return await prove_batches(snapshot, page, self._batches, self._observer)


class Chain:
    """Sealed rows in order, each compared with the one before."""

    def __init__(self, position: int, chain: bytes) -> None:
        self.finding = Finding(Check.POSITIONS, "position")
        self.position = position
        self.value = chain

    def follow(self, batch: Record) -> None:
        """Check the next sealed row. A wrong row counts as one fault, because the next row is compared with the values
        that it states.
        """
        self.finding.checked_count += 1
        position, chain = batch["position"], batch["chain"]
        if position != self.position + 1:
            self._add_fault(name_of_batch(batch), f"position {self.position + 1}", f"position {position}")
        elif chain != (follows := chain_of(self.value, position, batch["digest"])):
            expected = f"chain {follows.hex()}, from the one before, the position and the digest"
            self._add_fault(name_of_batch(batch), expected, f"chain {chain.hex()}")
        self.position, self.value = position, chain

    def end_at(self, head: Record | None) -> None:
        """Compare the last row with journal_head."""
        last = f"position {self.position}, chain {self.value.hex()}"
        found = "no row" if head is None else f"position {head['position']}, chain {head['chain'].hex()}"
        if found != last:
            self.finding.add_fault("journal_head", "its only row", expected=f"{last}, the journal's last", found=found)

    def _add_fault(self, row: str, expected: str, found: str) -> None:
        self.finding.add_fault("journal", row, expected=expected, found=found)


def pages(snapshot: Snapshot, after_position: int, page_events: int | None = None) -> AsyncIterator[Sequence[Record]]:
    """Yields the sealed batches after a position, or all of them (including any with a position below 1) if none is
    given.

    A page has at most this many events, or EVENTS_READ, or is one batch.
    """
    return _pages(snapshot, SQL.sealed_batches, "position", after_position or _BIGINT_MIN, page_events)


async def _pages(
    snapshot: Snapshot, statement: str, key: str, last: int, page_events: int | None = None
) -> AsyncIterator[Sequence[Record]]:
    """Yields the batches in order of the key, one page at a time."""
    page_events = page_events or EVENTS_READ
    while batches := await snapshot.rows(statement, last, BATCHES_READ):
        sizes = accumulate(batch["event_count"] for batch in batches)
        within = sum(1 for _ in takewhile(lambda size: size <= page_events, sizes))
        page = batches[: max(within, 1)]
        yield page
        last = page[-1][key]


async def prove_batches(
    snapshot: Snapshot, page: Sequence[Record], proof: BatchProof, observer: Observer
) -> Sequence[Record]:
    """Compare each batch with its events and operations. Returns the events."""
    batch_ids = [batch["batch_id"] for batch in page]
    events, operations = defaultdict(list), defaultdict(list)
    read = await snapshot.rows(SQL.events_of_batches, batch_ids)
    for event in read:
        events[event["batch_id"]].append(event)
    for operation in await snapshot.rows(SQL.operations_of_batches, batch_ids):
        operations[operation["batch_id"]].append(operation)
    credited = await _read_credits(snapshot, read)
    for batch in page:
        proof.prove(batch, events[batch["batch_id"]], operations[batch["batch_id"]], credited)
    observer.advance(len(read))
    return read


async def _read_credits(snapshot: Snapshot, events: Sequence[Record]) -> dict[UUID, Decimal]:
    """Returns the receivers' balances after transfers. They are in these events, or in other batches where each step is
    a database transaction of its own.
    """
    credited = {
        event["transfer_id"]: event["balance_after"] for event in events if event["type"] == TransferCredited.__name__
    }
    elsewhere = {
        event["transfer_id"]: payload["toWalletId"]
        for event in events
        if event["type"] == TransferCompleted.__name__
        and event["transfer_id"] not in credited
        and isinstance(payload := read_payload(event["payload"]), dict)
        and isinstance(payload.get("toWalletId"), str)
    }
    if elsewhere:
        buckets = [bucket_of(WalletId(wallet_id)) for wallet_id in elsewhere.values()]
        rows = await snapshot.rows(SQL.credits_of_transfers, buckets, list(elsewhere.values()), list(elsewhere))
        credited |= {row["transfer_id"]: row["balance_after"] for row in rows}
    return credited


async def _warn_of_unpublished(snapshot: Snapshot, finding: Finding) -> None:
    row = await snapshot.row(SQL.unpublished, snapshot.taken_at - OVERDUE)
    if row is not None and row["batch_count"]:
        finding.warnings.append(
            f"{counted(row['batch_count'], 'batch')} waited for more than {_MINUTES} minutes to be "
            f"published, the first at position {row['position']}: is a relay running, and is RabbitMQ there?"
        )


def made_at(batch: Record) -> datetime:
    """Returns the time in the row's id, a UUIDv7, which begins with the milliseconds of its creation; an unsealed row
    has no other time.
    """
    return _EPOCH + timedelta(milliseconds=min(batch["batch_id"].int >> 80, _MS_MAX))
