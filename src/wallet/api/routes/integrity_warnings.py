"""What is behind, in the words of somebody who is woken for it: each says what it means and what to do."""

from datetime import datetime
from typing import Final

from wallet.api.contract.integrity_schemas import AuditWarning
from wallet.api.routes.health import BACKLOG_SECONDS_MAX
from wallet.integrity.monitor.reading import LOOK_OLD, Reading
from wallet.integrity.monitor.state import Passed

LOOK_SECONDS_MAX: Final = LOOK_OLD.total_seconds()
SLICE_OVERDUE_SECONDS_MAX: Final = 900.0
"""A slice of the full pass is missed so long after it was due: more than one takes on very large books."""
PASS_SECONDS_MAX: Final = 900.0
PASS_DURATIONS_MAX: Final = 3.0
"""A pass is old beyond both: 15 minutes, and three times what the last one took and this one has planned so far."""
LAG_SECONDS_MAX: Final = 30.0


def warnings_of(reading: Reading) -> list[AuditWarning]:
    """Everything that is behind."""
    found = [
        *_of_the_auditor(reading),
        *_of_the_full_pass(reading),
        *_of_the_relay(reading),
        *_of_the_worker(reading),
        *_of_transfers(reading),
    ]
    if reading.open_letter_count:
        detail = (
            f"{reading.open_letter_count} open dead letters: messages that had no effect wait for a decision. "
            "See `wallet dlq list`, mend the cause, then `wallet dlq replay` or `discard`."
        )
        found.append(AuditWarning("deadLetters", detail))
    return found


def seconds_since(moment: datetime | None, now: datetime) -> float:
    """Seconds from a moment to now; 0 for none, or for one that a clock put into the future."""
    return 0.0 if moment is None else max(0.0, round((now - moment).total_seconds(), 3))


def _of_the_auditor(reading: Reading) -> list[AuditWarning]:
    looked = reading.state.looked
    cure = "Is a worker running? If so, `audit_paused` or `audit_failed` in worker.log says why it can't look."
    if looked is None:
        return [AuditWarning("auditor", f"No auditor has looked at these books yet. {cure}")]
    age = seconds_since(looked.taken_at, reading.now)
    if age > LOOK_SECONDS_MAX:
        detail = f"Nobody has looked for {age:.0f} s, so a fault made since would not show. {cure}"
        return [AuditWarning("auditor", detail)]
    if not looked.is_caught_up:
        behind = max(0, reading.head_position - looked.head.position)
        detail = f"The looks are {behind} batches behind and catch up without a pause. Wait; it needs no help."
        return [AuditWarning("auditor", detail)]
    return []


def _of_the_full_pass(reading: Reading) -> list[AuditWarning]:
    passed = reading.state.passed
    if passed is None:
        return [_of_the_first_pass(reading)]
    found = []
    age = seconds_since(passed.begun_at, reading.now)
    overdue = seconds_since(reading.state.due_at, reading.now)
    if overdue > SLICE_OVERDUE_SECONDS_MAX:
        detail = (
            f"The full pass should have gone on {overdue:.0f} s ago. Is a worker running? "
            "`audit_paused` or `audit_failed` in worker.log says why it does not; `wallet verify` proves all now."
        )
        found.append(AuditWarning("fullPass", detail))
    elif age > max(PASS_SECONDS_MAX, PASS_DURATIONS_MAX * (duration_of(passed) + _planned_seconds(reading))):
        detail = f"The last full pass began {age:.0f} s ago, far longer than one takes. {_SLOW}"
        found.append(AuditWarning("fullPass", detail))
    delivery = passed.tallies.get("DELIVERY")
    texts = [] if delivery is None else delivery.warnings
    return [*found, *(AuditWarning("worker", f"At the last full pass {text}") for text in texts)]


_SLOW: Final = "`audit_paused` or `audit_failed` in worker.log says what holds it up; `wallet verify` proves all now."


def _of_the_first_pass(reading: Reading) -> AuditWarning:
    detail = "No full pass has come to its end yet, so what is older than the looks is unproved. "
    passing = reading.state.passing
    age = 0.0 if passing is None else seconds_since(passing.begun_at, reading.now)
    if age > max(PASS_SECONDS_MAX, PASS_DURATIONS_MAX * _planned_seconds(reading)):
        return AuditWarning("fullPass", f"{detail}It began {age:.0f} s ago. {_SLOW}")
    return AuditWarning("fullPass", detail + "Wait for it.")


def _planned_seconds(reading: Reading) -> float:
    """What the slices of the pass under way took, with their rests: time well spent, however long."""
    return 0.0 if reading.state.passing is None else reading.state.passing.planned_seconds


def duration_of(passed: Passed) -> float:
    """How long the last full pass took."""
    return seconds_since(passed.begun_at, passed.ended_at)


def _of_the_relay(reading: Reading) -> list[AuditWarning]:
    seconds = seconds_since(reading.unpublished_at, reading.now)
    if seconds <= BACKLOG_SECONDS_MAX:
        return []
    detail = (
        f"The oldest unsealed event has waited {seconds_since(reading.unsealed_at, reading.now):.0f} s, "
        f"the oldest unpublished one {seconds:.0f} s; none is lost. "
        "Is a relay running, and is RabbitMQ there? See relay.log; the backlog drains by itself."
    )
    return [AuditWarning("relay", detail)]


def _of_the_worker(reading: Reading) -> list[AuditWarning]:
    if reading.lag_seconds <= LAG_SECONDS_MAX:
        return []
    detail = (
        f"{reading.lag.event_count} published events had no effect yet, the oldest after "
        f"{reading.lag_seconds:.0f} s: statistics and alerts are late. See `worker_paused` in worker.log, "
        "or start more workers."
    )
    return [AuditWarning("worker", detail)]


def _of_transfers(reading: Reading) -> list[AuditWarning]:
    if reading.stuck_transfer is None:
        return []
    wallet_id, transfer_id = reading.stuck_transfer
    detail = (
        f"{reading.stuck_count} transfers were debited more than a minute ago and have not ended, the oldest "
        f"is {transfer_id} of wallet {wallet_id}. An api ends them, if one runs: "
        "see `transfer_recovery_failed` in api.log."
    )
    return [AuditWarning("transfers", detail)]
