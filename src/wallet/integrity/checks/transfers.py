"""I7: no transfer is stuck, and each agrees with its events, with the receiver's decision and with its outcome."""

from datetime import timedelta
from typing import Final, assert_never

from asyncpg import Record

from wallet.domain.events import (
    TransferCompensated,
    TransferCompleted,
    TransferCredited,
    TransferDebited,
    TransferFailed,
    TransferInitiated,
)
from wallet.domain.outcomes import Rejection
from wallet.domain.transfer import TransferStatus
from wallet.integrity.findings import Check, Finding
from wallet.integrity.snapshot import SQL, Snapshot

STUCK_AFTER: Final = timedelta(seconds=60)
"""Recovery first tries after 5 seconds and then with growing pauses, so several attempts have failed by then."""

_BEGUN: Final = (TransferInitiated, TransferDebited)
STEPS: Final = (
    (TransferStatus.DEBITED, _BEGUN),
    (TransferStatus.DEBITED, (*_BEGUN, TransferCredited)),
    (TransferStatus.COMPLETED, (*_BEGUN, TransferCredited, TransferCompleted)),
    (TransferStatus.FAILED, (*_BEGUN, TransferCompensated, TransferFailed)),
)
"""Status → the types of the events that a transfer with this status has; a debited one may already be credited."""


async def prove_transfers(snapshot: Snapshot, *, ends: bool = True) -> list[Finding]:
    """Run four comparisons, each with one statement. If `ends` is set, a transfer that is stuck is a fault as well."""
    finding = Finding(Check.TRANSFERS, "transfer")
    [count] = await snapshot.rows(SQL.transfer_count)
    finding.checked_count = count["count"]
    if ends:
        await _find_stuck(snapshot, finding)
    await _compare_with_events(snapshot, finding)
    await _compare_with_outcomes(snapshot, finding)
    await _compare_with_credits(snapshot, finding)
    return [finding]


async def _find_stuck(snapshot: Snapshot, finding: Finding) -> None:
    row = await snapshot.row(SQL.stuck_transfers, snapshot.taken_at - STUCK_AFTER)
    if row is not None:
        seconds = (snapshot.taken_at - row["updated_at"]) // timedelta(seconds=1)
        _add_fault(
            finding,
            "transfers",
            row,
            expected=f"completed or failed within {STUCK_AFTER // timedelta(seconds=1)} s",
            found=f"debited {seconds} s ago and not ended since; an api ends it, if one is running",
        )


async def _compare_with_events(snapshot: Snapshot, finding: Finding) -> None:
    statuses = [status for status, _ in STEPS]
    steps = [" ".join(sorted(event_type.__name__ for event_type in types)) for _, types in STEPS]
    row = await snapshot.row(SQL.transfers_unlike_their_events, statuses, steps)
    if row is None:
        return
    if row["status"] is None:
        event = await snapshot.row(SQL.first_event_of_transfer, row["transfer_id"])
        assert event is not None
        name = f"wallet {event['wallet_id']}, version {event['version']}"
        found = f"none; its events are {row['steps']}"
        finding.add_fault(
            "events", name, expected=f"transfer {row['transfer_id']}", found=found, count=row["fault_count"]
        )
        return
    legal = " or ".join(text for status, text in zip(statuses, steps, strict=True) if status == row["status"])
    found = row["steps"] or "no event"
    if row["agrees"] is False:
        found += ", of which one has another amount, currency, wallet or request"
    _add_fault(finding, "transfers", row, expected=f"{row['status']}: {legal}", found=found)


async def _compare_with_outcomes(snapshot: Snapshot, finding: Finding) -> None:
    row = await snapshot.row(SQL.transfers_unlike_their_outcomes, Rejection.TRANSFER_FAILED.value)
    if row is None:
        return
    outcome = {None: "no operation", "pending": "a pending operation"}.get(row["state"])
    outcome = outcome or ("a refused operation" if row["refusal"] else "an operation that succeeded")
    if row["status"] is None:
        name = f"wallet {row['wallet_id']}, request {row['request_id']}"
        finding.add_fault(
            "operations", name, expected=f"a transfer that belongs to {outcome}", found="none", count=row["fault_count"]
        )
        return
    if row["state"] is not None and (unlike := _unlike_its_operation(row)) is not None:
        name = f"wallet {row['wallet_id']}, request {row['request_id']}"
        wanted, seen = unlike
        finding.add_fault("operations", name, expected=wanted, found=seen, count=row["fault_count"])
        return
    expected = _expected_operation(TransferStatus(row["status"]))
    _add_fault(finding, "transfers", row, expected=f"{row['status']}: {expected}", found=outcome)


def _expected_operation(status: TransferStatus) -> str:
    match status:
        case TransferStatus.DEBITED:
            return "a pending operation"
        case TransferStatus.COMPLETED:
            return "an operation that succeeded"
        case TransferStatus.FAILED:
            return "a refused operation"
        case other:
            assert_never(other)


def _unlike_its_operation(row: Record) -> tuple[str, str] | None:
    """Returns the expected and the found values of a transfer's operation, or None if they agree."""
    of_it = f"to match its transfer {row['transfer_id']}"
    if row["kind"] != "transfer":
        return f"kind transfer, {of_it}", f"kind {row['kind']}"
    if row["fingerprint"] != row["asked"] and not row["fingerprint"].startswith("atomic:"):
        return f"fingerprint {row['asked']}, {of_it}", f"fingerprint {row['fingerprint']}"
    return None if row["has_same_request"] else (f"the audit id, {of_it}", "another audit id")


async def _compare_with_credits(snapshot: Snapshot, finding: Finding) -> None:
    row = await snapshot.row(SQL.credits_unlike_their_transfers)
    if row is None:
        return
    _add_fault(
        finding,
        "transfer_credits",
        row,
        expected=f"a transfer with the same result and, if it was credited, a matching {TransferCredited.__name__}",
        found=f"{row['outcome']}, but the transfer is {row['status'] or 'missing'}"
        + ("" if row["outcome"] == "refused" else f" and the event is {row['type'] or 'missing or different'}"),
    )


def _add_fault(finding: Finding, table: str, row: Record, *, expected: str, found: str) -> None:
    name = f"transfer {row['transfer_id']}"
    if row.get("from_wallet_id"):
        name = f"wallet {row['from_wallet_id']}, {name}"
    finding.add_fault(table, name, expected=expected, found=found, count=row["fault_count"])
