"""I6: what the worker's inbox says, held against the log. An event that has not arrived yet is late, not lost."""

from typing import Final

from wallet.verification.checks import Check, Finding, counted
from wallet.verification.journal import OVERDUE
from wallet.verification.snapshot import ALL_BUCKETS, SQL, Buckets, Snapshot

_MINUTES: Final = int(OVERDUE.total_seconds() // 60)


async def prove_delivery(
    snapshot: Snapshot, buckets: Buckets = ALL_BUCKETS, *, warns_of_letters: bool = True
) -> list[Finding]:
    """No effect without its event, no failed event without its dead letter; warns of what waits."""
    finding = Finding(Check.DELIVERY, "event")
    counts = await snapshot.row(SQL.inbox_counts, *buckets)
    assert counts is not None
    finding.looked_at = counts["processed_count"]
    async with snapshot.joining_whole_tables():
        await _prove_effects(snapshot, finding, buckets)
        await _warn(snapshot, finding, buckets, counts["open_letter_count"] if warns_of_letters else 0)
    return [finding]


async def _prove_effects(snapshot: Snapshot, finding: Finding, buckets: Buckets) -> None:
    row = await snapshot.row(SQL.effects_without_events, *buckets)
    if row is not None:
        expected, name = "an event in the log", f"event {row['event_id']}"
        finding.blame("processed_events", name, expected=expected, found="none", count=row["fault_count"])
    row = await snapshot.row(SQL.failures_without_letters, *buckets)
    if row is not None:
        finding.blame(
            "processed_events",
            f"event {row['event_id']} (wallet {row['wallet_id']}, version {row['version']})",
            expected="a dead letter, as it failed",
            found=f"none; the error was {row['error_message']}",
            count=row["fault_count"],
        )


async def _warn(snapshot: Snapshot, finding: Finding, buckets: Buckets, open_letter_count: int) -> None:
    row = await snapshot.row(SQL.overdue_events, *buckets, snapshot.taken_at - OVERDUE)
    if row is not None:
        finding.warnings.append(
            f"{counted(row['event_count'], 'event')} published more than {_MINUTES} minutes ago had no effect yet, "
            f"the first is version {row['version']} of wallet {row['wallet_id']}: is a worker running?"
        )
    if open_letter_count:
        finding.warnings.append(f"{counted(open_letter_count, 'open dead letter')}: see `wallet dlq list`")
