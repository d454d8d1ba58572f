"""I9: checks that no event or operation is outside the journal. The opposite direction, from each journal row to its
events and operations, is checked by batches.py.
"""

from asyncpg import Record

from wallet.integrity.findings import Check, Finding
from wallet.integrity.snapshot import ALL_BUCKETS, SQL, Buckets, Snapshot


async def prove_no_strays(snapshot: Snapshot, buckets: Buckets = ALL_BUCKETS) -> list[Finding]:
    """Run two anti-joins."""
    finding = Finding(Check.STRAYS, "row")
    counts = await snapshot.row(SQL.counts, *buckets)
    assert counts is not None
    finding.checked_count = counts["event_count"] + counts["operation_count"]
    event = await snapshot.row(SQL.stray_events, *buckets)
    if event is not None:
        name = f"wallet {event['wallet_id']}, version {event['version']}, event {event['event_id']}"
        _add_fault(finding, "events", name, event)
    operation = await snapshot.row(SQL.stray_operations, *buckets)
    if operation is not None:
        name = f"wallet {operation['wallet_id']}, request {operation['request_id']}"
        _add_fault(finding, "operations", name, operation)
    return [finding]


def _add_fault(finding: Finding, table: str, name: str, row: Record) -> None:
    expected, found = f"batch {row['batch_id']} in the journal", "no such batch"
    finding.add_fault(table, name, expected=expected, found=found, count=row["fault_count"])
