"""Builds the answer of `GET /integrity` from the stored results of the integrity monitor.

At most one statement a second is sent, however many requests arrive. No check runs here. Each warning states, for the
operator on call, what it means and what to do.
"""

import asyncio
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal

from wallet.api.contract.reply import format_time
from wallet.api.contract.schemas import (
    IntegrityCheck,
    IntegrityConservation,
    IntegrityFault,
    IntegrityFullCheck,
    IntegrityIncremental,
    IntegrityJournal,
    IntegrityResponse,
    IntegrityStatus,
    IntegrityTransfers,
    IntegrityUnderWay,
    IntegrityWarning,
    IntegrityWorker,
)
from wallet.api.routes.health import BACKLOG_SECONDS_MAX
from wallet.domain.money import format_money
from wallet.integrity.findings import Check, counted
from wallet.integrity.monitor.full_check import progress_of
from wallet.integrity.monitor.reading import CHECK_OLD, IntegrityReading, read_integrity
from wallet.integrity.monitor.state import FULL, INCREMENTAL, FullCheckProgress, FullCheckResult, StoredFault, Sums
from wallet.postgres.connections import Pool
from wallet.queries.reading import ReadFailed

CHECK_SECONDS_MAX: Final = CHECK_OLD.total_seconds()
SLICE_OVERDUE_SECONDS_MAX: Final = 900.0
"""How long a slice of the full check may be overdue: longer than one takes on very large books."""
FULL_CHECK_SECONDS_MAX: Final = 900.0
DURATIONS_MAX: Final = 3.0
"""A full check is late after both: 15 minutes, and three times the last duration plus what this one has planned."""
LAG_SECONDS_MAX: Final = 30.0
_LOGGED: Final = "`integrity_check_paused` or `integrity_check_failed`"
_SLOW: Final = f"See {_LOGGED} in worker.log for the cause; `wallet verify` checks everything now."
CACHED_SECONDS: Final = 1.0
READ_SECONDS_MAX: Final = 2.0
"""The same limit as for readiness and metrics: a client that polls every few seconds has no use for a later answer."""
_PROGRESS_MIN: Final = 0.05
"""Below this progress the duration cannot be estimated from it; the duration of the last full check is used."""
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


def warnings_of(reading: IntegrityReading) -> list[IntegrityWarning]:
    """Returns everything that is behind."""
    found = [
        *_of_failed_checks(reading),
        *_of_the_monitor(reading),
        *_of_the_full_check(reading),
        *_of_the_relay(reading),
        *_of_the_worker(reading),
        *_of_transfers(reading),
    ]
    if reading.open_dead_letter_count:
        detail = (
            f"{reading.open_dead_letter_count} open dead letters: messages that had no effect wait for a decision. "
            "See `wallet dlq list`, fix the cause, then `wallet dlq replay` or `discard`."
        )
        found.append(IntegrityWarning("deadLetters", detail))
    return found


def seconds_since(moment: datetime | None, now: datetime) -> float:
    """Seconds from a moment to now; 0 for none, or for one that a clock put into the future."""
    return 0.0 if moment is None else max(0.0, round((now - moment).total_seconds(), 3))


def _of_failed_checks(reading: IntegrityReading) -> Iterator[IntegrityWarning]:
    sorts: tuple[tuple[str, Literal["monitor", "fullPass"]], ...] = ((INCREMENTAL, "monitor"), (FULL, "fullPass"))
    for name, sort in sorts:
        failure = reading.state.failed.get(name)
        if failure is not None:
            age = seconds_since(failure.at, reading.now)
            detail = (
                f"The {name} check has been failing for {age:.0f} s: {failure.error}. "
                "Faults that it would find are not reported. "
                "It is retried at least every 10 s; see `integrity_check_failed` in worker.log."
            )
            yield IntegrityWarning(sort, detail)


def is_far_ahead(moment: datetime | None, now: datetime) -> bool:
    """Whether a stored time was written before the clock was put back; its age is unknown then."""
    return moment is not None and (moment - now).total_seconds() > BACKLOG_SECONDS_MAX


def _of_the_monitor(reading: IntegrityReading) -> list[IntegrityWarning]:
    result = reading.state.incremental
    cure = f"Is a worker running? If so, see {_LOGGED} in worker.log."
    if result is None:
        return [IntegrityWarning("monitor", f"Nothing has been checked yet. {cure}")]
    age = seconds_since(result.taken_at, reading.now)
    if is_far_ahead(result.taken_at, reading.now):
        detail = f"The last check has a time in the future: the clock of PostgreSQL was put back. {cure}"
        return [IntegrityWarning("monitor", detail)]
    if age > CHECK_SECONDS_MAX:
        detail = f"The last check was {age:.0f} s ago: newer faults are not reported. {cure}"
        return [IntegrityWarning("monitor", detail)]
    if not result.is_caught_up:
        behind = max(0, reading.head_position - result.head.position)
        detail = f"The checks are {behind} batches behind and catch up without a pause. Wait; nothing needs to be done."
        return [IntegrityWarning("monitor", detail)]
    return []


def _of_the_full_check(reading: IntegrityReading) -> list[IntegrityWarning]:
    full = reading.state.full_result
    if full is None:
        return [_of_the_first_pass(reading)]
    found = []
    age = seconds_since(full.begun_at, reading.now)
    overdue = seconds_since(reading.state.due_at, reading.now)
    if overdue > SLICE_OVERDUE_SECONDS_MAX:
        detail = (
            f"The full check should have continued {overdue:.0f} s ago. Is a worker running? "
            f"If so, see {_LOGGED} in worker.log; `wallet verify` checks everything now."
        )
        found.append(IntegrityWarning("fullPass", detail))
    elif age > max(FULL_CHECK_SECONDS_MAX, DURATIONS_MAX * (duration_of(full) + _planned_seconds(reading))):
        detail = f"The last full check began {age:.0f} s ago, much longer than one takes. {_SLOW}"
        found.append(IntegrityWarning("fullPass", detail))
    tallies = [full.tallies[name] for name in ("DELIVERY", "EFFECTS") if name in full.tallies]
    texts = [text for tally in tallies for text in tally.warnings]
    return [*found, *(IntegrityWarning("worker", f"At the last full check {text}") for text in texts)]


def _of_the_first_pass(reading: IntegrityReading) -> IntegrityWarning:
    detail = "No full check was completed yet, so older events are not verified. "
    ongoing = reading.state.full_progress
    age = 0.0 if ongoing is None else seconds_since(ongoing.begun_at, reading.now)
    if age > max(FULL_CHECK_SECONDS_MAX, DURATIONS_MAX * _planned_seconds(reading)):
        return IntegrityWarning("fullPass", f"{detail}It began {age:.0f} s ago. {_SLOW}")
    return IntegrityWarning("fullPass", detail + "Wait for it.")


def _planned_seconds(reading: IntegrityReading) -> float:
    """How long the slices of the full check in progress took, with their pauses."""
    return 0.0 if reading.state.full_progress is None else reading.state.full_progress.planned_seconds


def duration_of(full: FullCheckResult) -> float:
    """Returns how long the last full check took, in seconds."""
    return seconds_since(full.begun_at, full.ended_at)


def _of_the_relay(reading: IntegrityReading) -> list[IntegrityWarning]:
    seconds = seconds_since(reading.unpublished_at, reading.now)
    if is_far_ahead(reading.unpublished_at, reading.now):
        detail = (
            "Events wait whose time lies in the future, as the clock of PostgreSQL was put back; none is lost. "
            "Is a relay running, and is RabbitMQ there? See relay.log; the backlog drains by itself."
        )
        return [IntegrityWarning("relay", detail)]
    if seconds <= BACKLOG_SECONDS_MAX:
        return []
    detail = (
        f"The oldest unsealed event has waited {seconds_since(reading.unsealed_at, reading.now):.0f} s, "
        f"the oldest unpublished one {seconds:.0f} s; none is lost. "
        "Is a relay running, and is RabbitMQ there? See relay.log; the backlog drains by itself."
    )
    return [IntegrityWarning("relay", detail)]


def _of_the_worker(reading: IntegrityReading) -> list[IntegrityWarning]:
    if reading.lag_seconds <= LAG_SECONDS_MAX:
        return []
    detail = (
        f"{reading.lag.event_count} published events had no effect yet, the oldest after "
        f"{reading.lag_seconds:.0f} s: statistics and alerts are late. See `worker_paused` in worker.log, "
        "or start more workers."
    )
    return [IntegrityWarning("worker", detail)]


def _of_transfers(reading: IntegrityReading) -> list[IntegrityWarning]:
    if reading.stuck_transfer is None:
        return []
    wallet_id, transfer_id = reading.stuck_transfer
    detail = (
        f"{reading.stuck_count} transfers were debited more than a minute ago and are not finished, the oldest "
        f"is {transfer_id} of wallet {wallet_id}. A running api finishes them: "
        "see `transfer_recovery_failed` in api.log."
    )
    return [IntegrityWarning("transfers", detail)]


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
        # The read is not cancelled at the time limit: asyncpg may take long to cancel, and no caller has to wait for
        # that.
        await asyncio.wait({reading}, timeout=max(0.0, self._begun_at + READ_SECONDS_MAX - loop.time()))
        if not reading.done():
            raise ReadFailed
        return reading.result()

    async def _read(self) -> IntegrityResponse:
        return report_of(await read_integrity(self._pool))

    def _end(self, reading: "asyncio.Task[IntegrityResponse]") -> None:
        self._ended_at = reading.get_loop().time()
        # The result is retrieved, so that a failure that no caller waits for is not logged as an unhandled error.
        if not reading.cancelled():
            reading.exception()


def report_of(reading: IntegrityReading) -> IntegrityResponse:
    """Returns the whole answer."""
    result = reading.state.incremental
    faults = [_fault(Check[name], fault) for name, fault in reading.state.faults.items() if name in Check.__members__]
    warnings = warnings_of(reading)
    sums = Sums() if result is None else result.sums
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
        dead_letters_open=reading.open_dead_letter_count,
        incremental=_incremental(reading),
        full_check=_full_check(reading),
    )


def _status(
    reading: IntegrityReading, faults: list[IntegrityFault], warnings: list[IntegrityWarning]
) -> IntegrityStatus:
    if faults:
        return "broken"
    if reading.is_starting:
        return "starting"
    return "behind" if warnings else "clean"


def _summary(reading: IntegrityReading, faults: list[IntegrityFault], warnings: list[IntegrityWarning]) -> str:
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


def _under_way_now(reading: IntegrityReading) -> Iterator[str]:
    """Work that is not finished, as is normal under load. When it is overdue there is a warning as well."""
    result = reading.state.incremental
    unchecked = reading.head_position - (0 if result is None else result.head.position)
    if unchecked > 0:
        yield f"{counted(unchecked, 'batch')} to be checked"
    if reading.unpublished_at is not None:
        yield "events to be published"
    if result is not None and result.in_flight:
        yield f"transfers of {_money(result.in_flight)} to be finished"
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


def _check(check: Check, reading: IntegrityReading) -> IntegrityCheck:
    fault = reading.state.faults.get(check.name)
    full = reading.state.full_result
    tally = None if full is None else full.tallies.get(check.name)
    return IntegrityCheck(
        name=check.title,
        invariant=check.invariant,
        promise=check.promise,
        status="broken" if fault else "unproved" if tally is None or reading.is_starting else "clean",
        looked_at=0 if tally is None else tally.checked_count,
        faults=0 if fault is None else fault.count,
    )


def _incremental(reading: IntegrityReading) -> IntegrityIncremental:
    result = reading.state.incremental
    if result is None:
        return IntegrityIncremental(None, None, 0, reading.head_position)
    return IntegrityIncremental(
        seconds_since(result.taken_at, reading.now),
        round(result.seconds, 3),
        result.head.position,
        max(0, reading.head_position - result.head.position),
    )


def _full_check(reading: IntegrityReading) -> IntegrityFullCheck:
    full, ongoing = reading.state.full_result, reading.state.full_progress
    duration = None if full is None else duration_of(full)
    return IntegrityFullCheck(
        None if full is None else seconds_since(full.begun_at, reading.now),
        duration,
        None if ongoing is None else _under_way(ongoing, reading, duration),
    )


def _under_way(ongoing: FullCheckProgress, reading: IntegrityReading, last: float | None) -> IntegrityUnderWay:
    age = seconds_since(ongoing.begun_at, reading.now)
    progress = round(progress_of(ongoing, reading.head_position), 3)
    expected = round(age / progress, 1) if progress >= _PROGRESS_MIN else last
    # The remaining time is unknown if the check has already taken longer than expected.
    return IntegrityUnderWay(age, progress, expected if expected is not None and expected > age else None)


def _money(amount: Decimal) -> str:
    return f"-{format_money(-amount)}" if amount.is_signed() else format_money(amount)
