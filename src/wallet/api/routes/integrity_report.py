"""Builds the answer of `GET /integrity` from what the integrity monitor has stored.

At most one statement a second is sent, however many requests arrive. Nothing is checked here.
"""

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from wallet.api.contract.integrity_schemas import (
    IntegrityCheck,
    IntegrityConservation,
    IntegrityFault,
    IntegrityFullPass,
    IntegrityIncremental,
    IntegrityJournal,
    IntegrityResponse,
    IntegrityStatus,
    IntegrityTransfers,
    IntegrityUnderWay,
    IntegrityWarning,
    IntegrityWorker,
)
from wallet.api.contract.reply import format_time
from wallet.api.routes.integrity_warnings import duration_of, seconds_since, warnings_of
from wallet.domain.money import format_money
from wallet.integrity.findings import Check, counted
from wallet.integrity.monitor.full_check import progress_of
from wallet.integrity.monitor.reading import Reading, read_integrity
from wallet.integrity.monitor.state import FullCheckProgress, StoredFault, Sums
from wallet.postgres.connections import Pool
from wallet.queries.reading import ReadFailed

CACHED_SECONDS: Final = 1.0
READ_SECONDS_MAX: Final = 2.0
"""As for readiness and metrics: a client that asks every few seconds has no use for a later answer."""
_PROGRESS_MIN: Final = 0.05
"""Below this the duration cannot be estimated from the progress; that of the last full check is used."""

_REBUILD: Final = (
    "The log itself is whole: `wallet rebuild` recreates statistics and alerts from it. Then find out why."
)
_THINK: Final = (
    "Run `wallet verify` for the whole picture, keep a dump, find out who could write. Do not repair by hand: "
    "corrections are new deposits, withdrawals or transfers."
)
_LOST: Final = (
    "The log itself is whole, but these events had no effect and will not be delivered again. `wallet rebuild` gives "
    "the effects; where a dead letter was discarded by mistake, `wallet dlq replay --force` does. Then find out who "
    "took the messages: who can read the queue, who discarded, whether the transport was changed."
)
_CURES: Final = {
    Check.EFFECTS: _LOST,
    Check.PROJECTIONS: _REBUILD,
    Check.HEADS: "The monitor had read this: the journal lost or rewrote it. Compare it with backups. " + _THINK,
    Check.READABLE: "PostgreSQL can't read a page or file, so what is in it is not checked and may be lost. "
    "Fail over to a standby or restore a backup, then run `wallet verify` with the exported heads.",
    Check.DELIVERY: "The worker's inbox does not agree with the log. " + _THINK,
}


class IntegrityReports:
    """The report, at most a second old."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._reading: asyncio.Task[IntegrityResponse] | None = None
        self._begun_at = float("-inf")
        self._ended_at = float("-inf")

    async def report(self) -> IntegrityResponse:
        """Returns the report. Callers that wait at the same time share one read, and its failure. Raises ReadFailed."""
        loop = asyncio.get_running_loop()
        reading = self._reading
        if reading is None or (reading.done() and loop.time() - self._ended_at >= CACHED_SECONDS):
            self._begun_at = loop.time()
            reading = self._reading = asyncio.create_task(self._read())
            reading.add_done_callback(self._end)
        # Not cancelled at the time limit: asyncpg may take long to cancel, and no caller has to wait for that.
        await asyncio.wait({reading}, timeout=max(0.0, self._begun_at + READ_SECONDS_MAX - loop.time()))
        if not reading.done():
            raise ReadFailed
        return reading.result()

    async def _read(self) -> IntegrityResponse:
        return report_of(await read_integrity(self._pool))

    def _end(self, reading: "asyncio.Task[IntegrityResponse]") -> None:
        self._ended_at = reading.get_loop().time()
        # Retrieved, so that a failure that no caller waits for is not logged as an error of ours.
        if not reading.cancelled():
            reading.exception()


def report_of(reading: Reading) -> IntegrityResponse:
    """Returns the whole answer."""
    looked = reading.state.looked
    faults = [_fault(Check[name], fault) for name, fault in reading.state.faults.items() if name in Check.__members__]
    warnings = warnings_of(reading)
    sums = Sums() if looked is None else looked.sums
    positions = reading.state.faults.get(Check.POSITIONS.name)
    transfer = reading.stuck_transfer
    return IntegrityResponse(
        status=_status(reading, faults, warnings),
        summary=_summary(reading, faults, warnings),
        checked_at=format_time(reading.now),
        faults=faults,
        warnings=warnings,
        checks=[_check(check, reading) for check in Check],
        conservation=IntegrityConservation(
            *map(_money, (sums.deposits, sums.withdrawals, sums.balances, sums.in_flight))
        ),
        journal=IntegrityJournal(reading.head_position, 0 if positions is None else positions.count),
        transfers=IntegrityTransfers(reading.stuck_count, transfer and f"wallet {transfer[0]}, transfer {transfer[1]}"),
        oldest_unsealed_seconds=seconds_since(reading.unsealed_at, reading.now),
        oldest_unpublished_seconds=seconds_since(reading.unpublished_at, reading.now),
        worker=IntegrityWorker(reading.lag.event_count, round(reading.lag_seconds, 3)),
        dead_letters_open=reading.open_letter_count,
        incremental=_incremental(reading),
        full_pass=_full_pass(reading),
    )


def _status(reading: Reading, faults: list[IntegrityFault], warnings: list[IntegrityWarning]) -> IntegrityStatus:
    if faults:
        return "broken"
    if reading.is_starting:
        return "starting"
    return "behind" if warnings else "clean"


def _summary(reading: Reading, faults: list[IntegrityFault], warnings: list[IntegrityWarning]) -> str:
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
    """Work that is not finished, as is normal under load. When it is overdue there is a warning as well."""
    looked = reading.state.looked
    unchecked = reading.head_position - (0 if looked is None else looked.head.position)
    if unchecked > 0:
        yield f"{counted(unchecked, 'batch')} to be checked"
    if reading.unpublished_at is not None:
        yield "events to be published"
    if looked is not None and looked.in_flight:
        yield f"transfers of {_money(looked.in_flight)} to be finished"
    if reading.lag.event_count:
        yield f"{counted(reading.lag.event_count, 'published event')} to have their effects"


def _fault(check: Check, fault: StoredFault) -> IntegrityFault:
    return IntegrityFault(
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


def _check(check: Check, reading: Reading) -> IntegrityCheck:
    fault = reading.state.faults.get(check.name)
    passed = reading.state.passed
    tally = None if passed is None else passed.tallies.get(check.name)
    return IntegrityCheck(
        name=check.title,
        invariant=check.invariant,
        promise=check.promise,
        status="broken" if fault else "unproved" if tally is None or reading.is_starting else "clean",
        looked_at=0 if tally is None else tally.looked_at,
        faults=0 if fault is None else fault.count,
    )


def _incremental(reading: Reading) -> IntegrityIncremental:
    looked = reading.state.looked
    if looked is None:
        return IntegrityIncremental(None, None, 0, reading.head_position)
    return IntegrityIncremental(
        seconds_since(looked.taken_at, reading.now),
        round(looked.seconds, 3),
        looked.head.position,
        max(0, reading.head_position - looked.head.position),
    )


def _full_pass(reading: Reading) -> IntegrityFullPass:
    passed, passing = reading.state.passed, reading.state.passing
    duration = None if passed is None else duration_of(passed)
    return IntegrityFullPass(
        None if passed is None else seconds_since(passed.begun_at, reading.now),
        duration,
        None if passing is None else _under_way(passing, reading, duration),
    )


def _under_way(passing: FullCheckProgress, reading: Reading, last: float | None) -> IntegrityUnderWay:
    age = seconds_since(passing.begun_at, reading.now)
    progress = round(progress_of(passing, reading.head_position), 3)
    expected = round(age / progress, 1) if progress >= _PROGRESS_MIN else last
    # Unknown if it has taken longer than that already.
    return IntegrityUnderWay(age, progress, expected if expected is not None and expected > age else None)


def _money(amount: Decimal) -> str:
    return f"-{format_money(-amount)}" if amount.is_signed() else format_money(amount)
