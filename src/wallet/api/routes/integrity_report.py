"""From what the auditor stored to what `GET /audit` answers."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from wallet.api.contract.integrity_schemas import (
    AuditCheck,
    AuditConservation,
    AuditFault,
    AuditFullPass,
    AuditIncremental,
    AuditJournal,
    AuditResponse,
    AuditStatus,
    AuditTransfers,
    AuditUnderWay,
    AuditWarning,
    AuditWorker,
)
from wallet.api.routes.integrity_warnings import duration_of, seconds_since, warnings_of
from wallet.api.routes.reads import format_time
from wallet.domain.money import format_money
from wallet.integrity.findings import Check, counted
from wallet.integrity.monitor.full_check import progress_of
from wallet.integrity.monitor.reading import Reading
from wallet.integrity.monitor.state import Passing, StoredFault, Sums

_PROGRESS_MIN: Final = 0.05
"""Before that, how long a pass will take is a guess: then the last one says."""

_REBUILD: Final = (
    "The log itself is whole: `wallet rebuild` makes statistics and alerts anew from it. Then find out why."
)
_THINK: Final = (
    "Run `wallet verify` for the whole picture, keep a dump, find out who could write. Do not repair by hand: "
    "corrections are new deposits, withdrawals or transfers."
)
_LOST: Final = (
    "The log itself is whole, but these events had no effect and nothing brings them any more. `wallet rebuild` gives "
    "the effects; where a dead letter was discarded by mistake, `wallet dlq replay --force` does. Then find out who "
    "took the messages: who can read the queue, who discarded, whether the transport was changed."
)
_CURES: Final = {
    Check.EFFECTS: _LOST,
    Check.PROJECTIONS: _REBUILD,
    Check.HEADS: "The auditor itself had seen this position: the journal lost or rewrote it. Compare it with backups. "
    + _THINK,
    Check.DELIVERY: "The worker's inbox does not agree with the log. " + _THINK,
}


def report_of(reading: Reading) -> AuditResponse:
    """The whole answer."""
    looked = reading.state.looked
    faults = [_fault(Check[name], fault) for name, fault in reading.state.faults.items() if name in Check.__members__]
    warnings = warnings_of(reading)
    sums = Sums() if looked is None else looked.sums
    positions = reading.state.faults.get(Check.POSITIONS.name)
    transfer = reading.stuck_transfer
    return AuditResponse(
        status=_status(reading, faults, warnings),
        summary=_summary(reading, faults, warnings),
        checked_at=format_time(reading.now),
        faults=faults,
        warnings=warnings,
        checks=[_check(check, reading) for check in Check],
        conservation=AuditConservation(*map(_money, (sums.deposits, sums.withdrawals, sums.balances, sums.in_flight))),
        journal=AuditJournal(reading.head_position, 0 if positions is None else positions.count),
        transfers=AuditTransfers(reading.stuck_count, transfer and f"wallet {transfer[0]}, transfer {transfer[1]}"),
        oldest_unsealed_seconds=seconds_since(reading.unsealed_at, reading.now),
        oldest_unpublished_seconds=seconds_since(reading.unpublished_at, reading.now),
        worker=AuditWorker(reading.lag.event_count, round(reading.lag_seconds, 3)),
        dead_letters_open=reading.open_letter_count,
        incremental=_incremental(reading),
        full_pass=_full_pass(reading),
    )


def _status(reading: Reading, faults: list[AuditFault], warnings: list[AuditWarning]) -> AuditStatus:
    if faults:
        return "broken"
    if reading.is_starting:
        return "starting"
    return "behind" if warnings else "clean"


def _summary(reading: Reading, faults: list[AuditFault], warnings: list[AuditWarning]) -> str:
    if faults:
        names = ", ".join(f"{fault.invariant} {fault.check}" for fault in faults)
        return f"A promise is broken: {names}. Each fault names its first row."
    if reading.is_starting:
        return "No fault was found, but not everything has been checked once yet: see fullPass and warnings."
    if warnings:
        return "No promise is broken, but something is behind: " + ", ".join(each.name for each in warnings) + "."
    under_way = ", ".join(_under_way_now(reading))
    if under_way:
        return f"Every promise holds as far as it was checked; under way, and not overdue: {under_way}."
    if reading.head_position == 0:
        return "Nothing has been written yet, so there is nothing to check."
    return "Every promise holds, and nothing is behind."


def _under_way_now(reading: Reading) -> Iterator[str]:
    """What is not done yet, as always at work; a warning speaks of it as soon as it is overdue."""
    looked = reading.state.looked
    unchecked = reading.head_position - (0 if looked is None else looked.head.position)
    if unchecked > 0:
        yield f"{counted(unchecked, 'batch')} to be checked"
    if reading.unpublished_at is not None:
        yield "events to be published"
    if reading.lag.event_count:
        yield f"{counted(reading.lag.event_count, 'published event')} to have their effects"


def _fault(check: Check, fault: StoredFault) -> AuditFault:
    return AuditFault(
        check=check.title,
        invariant=check.invariant,
        table=fault.table,
        row=fault.row,
        expected=fault.expected,
        found=fault.found,
        count=fault.count,
        found_at=format_time(fault.found_at),
        detail=f"Broken: {check.promise}. {_CURES.get(check, _THINK)}",
    )


def _check(check: Check, reading: Reading) -> AuditCheck:
    fault = reading.state.faults.get(check.name)
    passed = reading.state.passed
    tally = None if passed is None else passed.tallies.get(check.name)
    return AuditCheck(
        name=check.title,
        invariant=check.invariant,
        promise=check.promise,
        status="broken" if fault else "unproved" if tally is None or reading.is_starting else "clean",
        looked_at=0 if tally is None else tally.looked_at,
        faults=0 if fault is None else fault.count,
    )


def _incremental(reading: Reading) -> AuditIncremental:
    looked = reading.state.looked
    if looked is None:
        return AuditIncremental(None, None, 0, reading.head_position)
    return AuditIncremental(
        seconds_since(looked.taken_at, reading.now),
        round(looked.seconds, 3),
        looked.head.position,
        max(0, reading.head_position - looked.head.position),
    )


def _full_pass(reading: Reading) -> AuditFullPass:
    passed, passing = reading.state.passed, reading.state.passing
    duration = None if passed is None else duration_of(passed)
    return AuditFullPass(
        None if passed is None else seconds_since(passed.begun_at, reading.now),
        duration,
        None if passing is None else _under_way(passing, reading, duration),
    )


def _under_way(passing: Passing, reading: Reading, last: float | None) -> AuditUnderWay:
    age = seconds_since(passing.begun_at, reading.now)
    progress = round(progress_of(passing, reading.head_position), 3)
    expected = round(age / progress, 1) if progress >= _PROGRESS_MIN else last
    # What it takes now is not known, where it takes longer than that already.
    return AuditUnderWay(age, progress, expected if expected is not None and expected > age else None)


def _money(amount: Decimal) -> str:
    return f"-{format_money(-amount)}" if amount.is_signed() else format_money(amount)
