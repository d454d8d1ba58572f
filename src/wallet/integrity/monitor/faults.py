"""Stores faults: one for each check, from the time it is found until a full check that began later finds none."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

import structlog

from wallet.integrity.findings import Check, Finding
from wallet.integrity.monitor.state import FullCheckProgress, FullCheckResult, MonitorState, StoredFault, Tally

_log = structlog.get_logger()


def enter(state: MonitorState, findings: Iterable[Finding], at: datetime) -> None:
    """Store what an incremental check or a slice found."""
    for finding in findings:
        fault = _fault_of(finding, at)
        if fault is None:
            continue
        known = state.faults.get(finding.check.name)
        if known is None:
            state.faults[finding.check.name] = fault
            _log_fault(finding.check, fault)
        else:
            known.seen_at = at
            if finding.check in _NAMES_ALL and fault.count > known.count:
                known.row = fault.row
            known.count = max(known.count, fault.count)


def add_to_tallies(progress: FullCheckProgress, findings: Iterable[Finding], at: datetime) -> None:
    """Add what a slice found to the result of its full check so far."""
    for finding in findings:
        tally = progress.tallies.setdefault(finding.check.name, Tally(finding.noun))
        tally.checked_count += finding.checked_count
        tally.warnings = [*tally.warnings, *finding.warnings][:_WARNINGS_KEPT]
        fault = _fault_of(finding, at)
        if fault is not None and tally.fault is not None:
            tally.fault.count += fault.count
        elif fault is not None:
            tally.fault = fault


def conclude(state: MonitorState, progress: FullCheckProgress, at: datetime) -> None:
    """Apply a completed full check: remove the faults that it did not find again, and replace those that it did."""
    for name, known in list(state.faults.items()):
        if name not in Check.__members__:
            continue  # A newer version found it, and only such a version can remove it.
        tally = progress.tallies.get(name)
        again = None if tally is None else tally.fault
        if again is not None:
            again.found_at = known.found_at
            state.faults[name] = again
        elif known.seen_at < progress.begun_at:
            del state.faults[name]
            check = Check[name]
            _log.info("integrity_fault_cleared", check=check.title, invariant=check.invariant, row=known.row)
    state.full_result = FullCheckResult(progress.begun_at, at, progress.slices, progress.tallies, progress.head)
    state.full_progress = None


_WARNINGS_KEPT: Final = 5
_NAMES_ALL: Final = frozenset({Check.EFFECTS})
"""Checks whose fault names each row, not only the first: rows that are found later are added."""


def _fault_of(finding: Finding, at: datetime) -> StoredFault | None:
    if finding.first is None:
        return None
    first = finding.first
    return StoredFault(first.table, first.row, first.expected, first.found, max(finding.fault_count, 1), at, at)


def _log_fault(check: Check, fault: StoredFault) -> None:
    _log.error(
        "integrity_fault",
        check=check.title,
        invariant=check.invariant,
        table=fault.table,
        row=fault.row,
        expected=fault.expected,
        found=fault.found,
        count=fault.count,
    )
