"""I6, I17: the worker's inbox compared with the log. An event that has not arrived yet is late, not lost.

An event is lost if it was published more than a minute ago, had no effect, has no open dead letter, and either its dead
letter was discarded or the worker has passed over it: an event that was published later, and later than a replay of it,
had its effect, more than a minute ago. One that is not published is the relay's to bring (I11); one that nothing later
has passed waits in the queue, or for a worker that reads the journal, or was lost at the very end: it is named in a
warning.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from wallet.integrity.findings import Check, Finding, counted
from wallet.integrity.snapshot import ALL_BUCKETS, SQL, Buckets, Snapshot
from wallet.worker.journal import CHECKPOINT

EFFECT_WITHIN: Final = timedelta(seconds=60)
"""How long an event may be on its way; and how long a later effect must be ago to show that it is not any more."""
LOST_NAMED_MAX: Final = 1_000
"""Of each finding; the number of all is given beside the names."""
BATCHES_SEARCHED: Final = 200
"""The last effect is searched for in this many of the newest batches. If none had one, everything is late."""
REBUILD: Final = "`wallet rebuild` gives the effect from the log"


class HandledUpTo(NamedTuple):
    """How far the worker has come, for certain: the last position with an effect, and when it was published."""

    position: int | None
    published_at: datetime | None
    followed_from: int | None
    """Where a worker reads the journal itself, now: what was published to the journal only waits for it there."""


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
    warns_of_letters: bool = True,
    effect_within: timedelta = EFFECT_WITHIN,
) -> list[Finding]:
    """No effect without its event, no failed event without its dead letter, none lost; warns of what waits."""
    passed = await read_handled(snapshot, effect_within)
    finding = Finding(Check.DELIVERY, "event")
    counts = await snapshot.row(SQL.inbox_counts, *buckets)
    assert counts is not None
    finding.looked_at = counts["processed_count"]
    async with snapshot.joining_whole_tables():
        await _prove_effects(snapshot, finding, buckets)
        effects = await _prove_that_none_is_lost(snapshot, buckets, passed, effect_within)
    effects.looked_at = counts["event_count"]
    if warns_of_letters and counts["open_letter_count"]:
        finding.warnings.append(f"{counted(counts['open_letter_count'], 'open dead letter')}: see `wallet dlq list`")
    return [finding, effects]


async def _prove_effects(snapshot: Snapshot, finding: Finding, buckets: Buckets) -> None:
    row = await snapshot.row(SQL.effects_without_events, *buckets)
    if row is not None:
        expected, name = "an event in the log", f"event {row['event_id']}"
        finding.add_fault("processed_events", name, expected=expected, found="none", count=row["fault_count"])
    row = await snapshot.row(SQL.failures_without_letters, *buckets)
    if row is not None:
        finding.add_fault(
            "processed_events",
            f"event {row['event_id']} (wallet {row['wallet_id']}, version {row['version']})",
            expected="a dead letter, as it failed",
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
    """An event that had no effect, and that nothing will bring any more."""

    event_id: UUID
    wallet_id: str
    version: int


def add_lost(finding: Finding, lost: Sequence[LostEvent], count: int) -> None:
    """Name lost events, each with its id as far as they are given, and the cure."""
    names = [f"event {each.event_id} (wallet {each.wallet_id}, version {each.version})" for each in lost]
    more = f"; and {count - len(names)} more" if count > len(names) else ""
    finding.add_fault(
        "events",
        "; ".join(names) + more,
        expected="its effect, or an open dead letter",
        found=f"neither: it was lost on its way, or its dead letter discarded. {REBUILD}",
        count=count,
    )
