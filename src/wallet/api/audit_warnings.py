"""What is behind, in the words of somebody who is woken for it: each says what it means and what to do."""

from datetime import datetime
from typing import Final

from wallet.api.audit_schemas import AuditWarning
from wallet.api.health import BACKLOG_SECONDS_MAX
from wallet.auditor.reading import Reading
from wallet.auditor.state import Looked, Passed

LOOK_SECONDS_MAX: Final = 40.0
"""A look comes every 5 seconds, and after a crash another auditor takes over within 25."""
SLICE_OVERDUE_SECONDS_MAX: Final = 900.0
"""A slice of the full pass is missed so long after it was due: more than one takes on very large books."""
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


def lag_seconds_of(looked: Looked) -> float:
    """How long the oldest event without effect had waited at the last look."""
    return seconds_since(looked.lag.oldest_at, looked.taken_at)


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
        detail = "No full pass has come to its end yet, so what is older than the looks is unproved. Wait for it."
        return [AuditWarning("fullPass", detail)]
    found = []
    overdue = seconds_since(reading.state.due_at, reading.now)
    if overdue > SLICE_OVERDUE_SECONDS_MAX:
        detail = (
            f"The full pass should have gone on {overdue:.0f} s ago. Is a worker running? "
            "`audit_paused` or `audit_failed` in worker.log says why it does not; `wallet verify` proves all now."
        )
        found.append(AuditWarning("fullPass", detail))
    delivery = passed.tallies.get("DELIVERY")
    texts = [] if delivery is None else delivery.warnings
    return [*found, *(AuditWarning("worker", f"At the last full pass {text}") for text in texts)]


def duration_of(passed: Passed) -> float:
    """How long the last full pass took."""
    return seconds_since(passed.begun_at, passed.ended_at)


def _of_the_relay(reading: Reading) -> list[AuditWarning]:
    seconds = seconds_since(reading.unpublished_at, reading.now)
    if seconds <= BACKLOG_SECONDS_MAX:
        return []
    detail = (
        f"The oldest unpublished event has waited {seconds:.0f} s; none is lost. "
        "Is a relay running, and is RabbitMQ there? See relay.log; the backlog drains by itself."
    )
    return [AuditWarning("relay", detail)]


def _of_the_worker(reading: Reading) -> list[AuditWarning]:
    looked = reading.state.looked
    if looked is None or lag_seconds_of(looked) <= LAG_SECONDS_MAX:
        return []
    detail = (
        f"{looked.lag.event_count} published events had no effect yet, the oldest after "
        f"{lag_seconds_of(looked):.0f} s: statistics and alerts are late. See `worker_paused` in worker.log, "
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
