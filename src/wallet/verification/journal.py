"""I9: the journal from its first position to its head, then what is not sealed yet; batch by batch, see batches.py.

Batches are read a page at a time with their events and operations, by key: what lies in one batch was written together
and is read together, so nothing has to be sorted, and memory is bounded by a page (or by one batch).
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Final

from wallet.domain.digest import GENESIS, chain_of
from wallet.verification.batches import BatchProof, name_of_batch
from wallet.verification.checks import Check, Finding, counted
from wallet.verification.snapshot import SQL, Snapshot

if TYPE_CHECKING:
    from asyncpg import Record

    from wallet.verification.checks import Observer

BATCHES_READ: Final = 1_000
EVENTS_READ: Final = 2_000
OVERDUE: Final = timedelta(minutes=5)
"""A batch unsealed or unpublished for so long has no relay; it is late, not wrong."""

_MINUTES: Final = OVERDUE // timedelta(minutes=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS_MAX: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
_BIGINT_MIN: Final = -(2**63)


async def prove_journal(snapshot: Snapshot, observer: "Observer") -> list[Finding]:
    """Walk along the chain, and prove each batch on the way."""
    chain, batches = _Chain(), BatchProof()
    async for page in _pages(snapshot, SQL.sealed_batches, "position"):
        for batch in page:
            chain.follow(batch)
        await _prove_batches(snapshot, page, batches, observer)
    chain.end_at(await snapshot.row(SQL.head))
    overdue_count = 0
    async for page in _pages(snapshot, SQL.unsealed_batches, "seq"):
        overdue_count += sum(_made_at(batch) < snapshot.taken_at - OVERDUE for batch in page)
        await _prove_batches(snapshot, page, batches, observer)
    if overdue_count:
        chain.finding.warnings.append(
            f"{counted(overdue_count, 'batch')} waited for more than {_MINUTES} minutes to be sealed: "
            "is a relay running?"
        )
    await _warn_of_unpublished(snapshot, chain.finding)
    return [chain.finding, batches.digests, batches.payloads, batches.outcomes]


class _Chain:
    def __init__(self) -> None:
        self.finding = Finding(Check.POSITIONS, "position")
        self._position = 0
        self._chain = GENESIS

    def follow(self, batch: "Record") -> None:
        """The next sealed row; each is held against the row before it, so one wrong row is one fault."""
        self.finding.looked_at += 1
        position, chain = batch["position"], batch["chain"]
        if position != self._position + 1:
            self._blame(name_of_batch(batch), f"position {self._position + 1}", f"position {position}")
        elif chain != (follows := chain_of(self._chain, position, batch["digest"])):
            expected = f"chain {follows.hex()}, from the one before, the position and the digest"
            self._blame(name_of_batch(batch), expected, f"chain {chain.hex()}")
        self._position, self._chain = position, chain

    def end_at(self, head: "Record | None") -> None:
        """Compare the last row with journal_head."""
        last = f"position {self._position}, chain {self._chain.hex()}"
        found = "no row" if head is None else f"position {head['position']}, chain {head['chain'].hex()}"
        if found != last:
            self.finding.blame("journal_head", "its only row", expected=f"{last}, the journal's last", found=found)

    def _blame(self, row: str, expected: str, found: str) -> None:
        self.finding.blame("journal", row, expected=expected, found=found)


async def _pages(snapshot: Snapshot, statement: str, key: str) -> "AsyncIterator[Sequence[Record]]":
    """The batches in order of the key, as many at a time as have EVENTS_READ events, and at least one."""
    last = _BIGINT_MIN
    while batches := await snapshot.rows(statement, last, BATCHES_READ):
        sizes = accumulate(batch["event_count"] for batch in batches)
        within = sum(1 for _ in takewhile(lambda size: size <= EVENTS_READ, sizes))
        page = batches[: max(within, 1)]
        yield page
        last = page[-1][key]


async def _prove_batches(snapshot: Snapshot, page: "Sequence[Record]", proof: BatchProof, observer: "Observer") -> None:
    batch_ids = [batch["batch_id"] for batch in page]
    events, operations = defaultdict(list), defaultdict(list)
    for event in await snapshot.rows(SQL.events_of_batches, batch_ids):
        events[event["batch_id"]].append(event)
    for operation in await snapshot.rows(SQL.operations_of_batches, batch_ids):
        operations[operation["batch_id"]].append(operation)
    for batch in page:
        proof.prove(batch, events[batch["batch_id"]], operations[batch["batch_id"]])
    observer.advance(sum(map(len, events.values())))


async def _warn_of_unpublished(snapshot: Snapshot, finding: Finding) -> None:
    row = await snapshot.row(SQL.unpublished, snapshot.taken_at - OVERDUE)
    if row is not None and row["batch_count"]:
        finding.warnings.append(
            f"{counted(row['batch_count'], 'batch')} waited for more than {_MINUTES} minutes to be "
            f"published, the first at position {row['position']}: is a relay running, and is RabbitMQ there?"
        )


def _made_at(batch: "Record") -> datetime:
    """An unsealed row has no time of its own; its id, a UUIDv7, begins with the milliseconds of its making."""
    return _EPOCH + timedelta(milliseconds=min(batch["batch_id"].int >> 80, _MS_MAX))
