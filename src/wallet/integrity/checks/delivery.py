"""I6, I17: compares the worker's inbox with the log. An event that has not arrived yet is late, not lost.

An event is lost if it was published more than a minute ago, had no effect, has no open dead letter, and one of two
conditions holds: its dead letter was discarded, or the worker has passed it. The worker has passed an event if another
event, which was published later (and later than any replay of the first), had its effect more than a minute ago.

Two kinds of event without effect are not lost. An unpublished event is the relay's task (I11). A published event that
the worker has not passed is still in the queue, or waits for a worker that reads the journal, or was lost at the very
end: a warning names it.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from wallet.integrity.findings import Check, Finding, counted
from wallet.integrity.snapshot import ALL_BUCKETS, SQL, Buckets, Snapshot
from wallet.worker.journal import CHECKPOINT

EFFECT_WITHIN: Final = timedelta(seconds=60)
"""How long an event may take to have its effect, and how old a later effect must be to prove that an event is lost."""
LOST_NAMED_MAX: Final = 1_000
"""The most names in one finding; the finding also states the total number."""
BATCHES_SEARCHED: Final = 200
"""The last effect is searched for in this many of the newest batches. If none had an effect, every event counts as
late.
"""
REBUILD: Final = "`wallet rebuild` gives the effect from the log"


class HandledUpTo(NamedTuple):
    """How far the worker has certainly come: the last position with an effect, and when it was published."""

    position: int | None
    published_at: datetime | None
    followed_from: int | None
    """The position from which a worker now reads the journal itself; events published to the journal only wait for it
    after this position.
    """


async def read_handled(snapshot: Snapshot, effect_within: timedelta = EFFECT_WITHIN) -> HandledUpTo:
    """Returns how far the worker has come."""
    last = await snapshot.row(SQL.last_effect, snapshot.taken_at - effect_within, BATCHES_SEARCHED)
    followed = await snapshot.row(SQL.followed_from, CHECKPOINT.length)
    position, published_at = (None, None) if last is None else last.values()
    return HandledUpTo(position, published_at, None if followed is None else followed["position"])


async def prove_delivery(
    snapshot: Snapshot,
    buckets: Buckets = ALL_BUCKETS,
    *,
    warns_of_dead_letters: bool = True,
    effect_within: timedelta = EFFECT_WITHIN,
) -> list[Finding]:
    """Check that no effect lacks its event, no failed event lacks its dead letter, and no event is lost; warn of what
    waits.
    """
    passed = await read_handled(snapshot, effect_within)
    finding = Finding(Check.DELIVERY, "event")
    counts = await snapshot.row(SQL.inbox_counts, *buckets)
    assert counts is not None
    finding.checked_count = counts["processed_count"]
    async with snapshot.joining_whole_tables():
        await _prove_effects(snapshot, finding, buckets)
        effects = await _prove_that_none_is_lost(snapshot, buckets, passed, effect_within)
    effects.checked_count = counts["event_count"]
    if warns_of_dead_letters and counts["open_dead_letter_count"]:
        finding.warnings.append(
            f"{counted(counts['open_dead_letter_count'], 'open dead letter')}: see `wallet dlq list`"
        )
    return [finding, effects]


async def _prove_effects(snapshot: Snapshot, finding: Finding, buckets: Buckets) -> None:
    row = await snapshot.row(SQL.effects_without_events, *buckets)
    if row is not None:
        expected, name = "an event in the log", f"event {row['event_id']}"
        finding.add_fault("processed_events", name, expected=expected, found="none", count=row["fault_count"])
    row = await snapshot.row(SQL.failures_without_dead_letters, *buckets)
    if row is not None:
        finding.add_fault(
            "processed_events",
            f"event {row['event_id']} (wallet {row['wallet_id']}, version {row['version']})",
            expected="a dead letter, because it failed",
            found=f"none; the error was {row['error_message']}",
            count=row["fault_count"],
        )


async def _prove_that_none_is_lost(
    snapshot: Snapshot, buckets: Buckets, passed: HandledUpTo, effect_within: timedelta
) -> Finding:
    finding = Finding(Check.EFFECTS, "event")
    rows = await snapshot.rows(
        SQL.events_without_effect, *buckets, snapshot.taken_at - effect_within, *passed, LOST_NAMED_MAX
    )
    lost = [LostEvent(row["event_id"], row["wallet_id"], row["version"]) for row in rows if row["is_lost"]]
    if lost:
        add_lost(finding, lost, rows[0]["lost_count"])
    late_count = rows[0]["event_count"] - rows[0]["lost_count"] if rows else 0
    late = next((row for row in rows if not row["is_lost"]), None)
    if late_count:
        named = (
            ""
            if late is None
            else (f", the first is event {late['event_id']}, version {late['version']} of wallet {late['wallet_id']}")
        )
        finding.warnings.append(
            f"{counted(late_count, 'event')} published more than {effect_within // timedelta(seconds=1)} s ago had no "
            f"effect yet{named}: is a worker running? If one is, and nothing waits in its queue, {REBUILD}"
        )
    return finding


class LostEvent(NamedTuple):
    """An event that had no effect, and that no process will deliver any more."""

    event_id: UUID
    wallet_id: str
    version: int


def add_lost(finding: Finding, lost: Sequence[LostEvent], count: int) -> None:
    """Add a fault that names lost events, with the ids that are given, and the remedy."""
    names = [f"event {each.event_id} (wallet {each.wallet_id}, version {each.version})" for each in lost]
    more = f"; and {count - len(names)} more" if count > len(names) else ""
    finding.add_fault(
        "events",
        "; ".join(names) + more,
        expected="its effect, or an open dead letter",
        found=f"neither: it was lost in transit, or its dead letter was discarded. {REBUILD}",
        count=count,
    )
