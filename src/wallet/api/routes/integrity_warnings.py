"""What is behind, for the operator on call: each warning states what it means and what to do."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final, Literal

from wallet.api.contract.integrity_schemas import IntegrityWarning
from wallet.api.routes.health import BACKLOG_SECONDS_MAX
from wallet.integrity.monitor.reading import CHECK_OLD, Reading
from wallet.integrity.monitor.state import FULL, INCREMENTAL, FullCheckResult

CHECK_SECONDS_MAX: Final = CHECK_OLD.total_seconds()
SLICE_OVERDUE_SECONDS_MAX: Final = 900.0
"""How long a slice of the full check may be overdue: longer than one takes on very large books."""
FULL_CHECK_SECONDS_MAX: Final = 900.0
DURATIONS_MAX: Final = 3.0
"""A full check is late after both: 15 minutes, and three times the last duration plus what this one has planned."""
LAG_SECONDS_MAX: Final = 30.0
_LOGGED: Final = "`integrity_check_paused` or `integrity_check_failed`"


def warnings_of(reading: Reading) -> list[IntegrityWarning]:
    """Returns everything that is behind."""
    found = [
        *_of_failed_checks(reading),
        *_of_the_monitor(reading),
        *_of_the_full_pass(reading),
        *_of_the_relay(reading),
        *_of_the_worker(reading),
        *_of_transfers(reading),
    ]
    if reading.open_letter_count:
        detail = (
            f"{reading.open_letter_count} open dead letters: messages that had no effect wait for a decision. "
            "See `wallet dlq list`, fix the cause, then `wallet dlq replay` or `discard`."
        )
        found.append(IntegrityWarning("deadLetters", detail))
    return found


def seconds_since(moment: datetime | None, now: datetime) -> float:
    """Seconds from a moment to now; 0 for none, or for one that a clock put into the future."""
    return 0.0 if moment is None else max(0.0, round((now - moment).total_seconds(), 3))


def _of_failed_checks(reading: Reading) -> Iterator[IntegrityWarning]:
    sorts: tuple[tuple[str, Literal["monitor", "fullPass"]], ...] = ((INCREMENTAL, "monitor"), (FULL, "fullPass"))
    for name, sort in sorts:
        failure = reading.state.failed.get(name)
        if failure is not None:
            age = seconds_since(failure.at, reading.now)
            detail = (
                f"The {name} check fails since {age:.0f} s: {failure.error}. What it would find is not reported. "
                "It is tried again every 10 s at most; see `integrity_check_failed` in worker.log."
            )
            yield IntegrityWarning(sort, detail)


def is_far_ahead(moment: datetime | None, now: datetime) -> bool:
    """Whether a stored time was written before the clock was put back; its age is unknown then."""
    return moment is not None and (moment - now).total_seconds() > BACKLOG_SECONDS_MAX


def _of_the_monitor(reading: Reading) -> list[IntegrityWarning]:
    looked = reading.state.looked
    cure = f"Is a worker running? If so, see {_LOGGED} in worker.log."
    if looked is None:
        return [IntegrityWarning("monitor", f"Nothing has been checked yet. {cure}")]
    age = seconds_since(looked.taken_at, reading.now)
    if is_far_ahead(looked.taken_at, reading.now):
        detail = f"The last check has a time in the future: the clock of PostgreSQL was put back. {cure}"
        return [IntegrityWarning("monitor", detail)]
    if age > CHECK_SECONDS_MAX:
        detail = f"The last check was {age:.0f} s ago: newer faults are not reported. {cure}"
        return [IntegrityWarning("monitor", detail)]
    if not looked.is_caught_up:
        behind = max(0, reading.head_position - looked.head.position)
        detail = f"The checks are {behind} batches behind and catch up without a pause. Wait; nothing needs to be done."
        return [IntegrityWarning("monitor", detail)]
    return []


def _of_the_full_pass(reading: Reading) -> list[IntegrityWarning]:
    passed = reading.state.passed
    if passed is None:
        return [_of_the_first_pass(reading)]
    found = []
    age = seconds_since(passed.begun_at, reading.now)
    overdue = seconds_since(reading.state.due_at, reading.now)
    if overdue > SLICE_OVERDUE_SECONDS_MAX:
        detail = (
            f"The full check should have continued {overdue:.0f} s ago. Is a worker running? "
            f"If so, see {_LOGGED} in worker.log; `wallet verify` checks everything now."
        )
        found.append(IntegrityWarning("fullPass", detail))
    elif age > max(FULL_CHECK_SECONDS_MAX, DURATIONS_MAX * (duration_of(passed) + _planned_seconds(reading))):
        detail = f"The last full check began {age:.0f} s ago, much longer than one takes. {_SLOW}"
        found.append(IntegrityWarning("fullPass", detail))
    tallies = [passed.tallies[name] for name in ("DELIVERY", "EFFECTS") if name in passed.tallies]
    texts = [text for tally in tallies for text in tally.warnings]
    return [*found, *(IntegrityWarning("worker", f"At the last full check {text}") for text in texts)]


_SLOW: Final = f"See {_LOGGED} in worker.log for the cause; `wallet verify` checks everything now."


def _of_the_first_pass(reading: Reading) -> IntegrityWarning:
    detail = "No full check was completed yet, so older events are not verified. "
    passing = reading.state.passing
    age = 0.0 if passing is None else seconds_since(passing.begun_at, reading.now)
    if age > max(FULL_CHECK_SECONDS_MAX, DURATIONS_MAX * _planned_seconds(reading)):
        return IntegrityWarning("fullPass", f"{detail}It began {age:.0f} s ago. {_SLOW}")
    return IntegrityWarning("fullPass", detail + "Wait for it.")


def _planned_seconds(reading: Reading) -> float:
    """How long the slices of the full check in progress took, with their pauses."""
    return 0.0 if reading.state.passing is None else reading.state.passing.planned_seconds


def duration_of(passed: FullCheckResult) -> float:
    """Returns how long the last full check took, in seconds."""
    return seconds_since(passed.begun_at, passed.ended_at)


def _of_the_relay(reading: Reading) -> list[IntegrityWarning]:
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


def _of_the_worker(reading: Reading) -> list[IntegrityWarning]:
    if reading.lag_seconds <= LAG_SECONDS_MAX:
        return []
    detail = (
        f"{reading.lag.event_count} published events had no effect yet, the oldest after "
        f"{reading.lag_seconds:.0f} s: statistics and alerts are late. See `worker_paused` in worker.log, "
        "or start more workers."
    )
    return [IntegrityWarning("worker", detail)]


def _of_transfers(reading: Reading) -> list[IntegrityWarning]:
    if reading.stuck_transfer is None:
        return []
    wallet_id, transfer_id = reading.stuck_transfer
    detail = (
        f"{reading.stuck_count} transfers were debited more than a minute ago and are not finished, the oldest "
        f"is {transfer_id} of wallet {wallet_id}. A running api finishes them: "
        "see `transfer_recovery_failed` in api.log."
    )
    return [IntegrityWarning("transfers", detail)]
