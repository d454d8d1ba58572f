"""What the OpenAPI document says of `GET /integrity`, and the answer that it shows."""

from typing import Final

AUDIT_DESCRIPTION: Final = """\
Cheap enough to ask every few seconds. What changed is looked at every 5 seconds, everything else by a pass in the \
background, whose age and duration are told. **starting**: not everything has been checked once yet. **clean**: every \
promise holds and nothing is overdue; the summary says what is under way. **behind**: nothing is lost, see `warnings`. \
**broken**: `faults` names the first row of each promise that is broken, until a whole pass finds it repaired. The \
HTTP status is 200 in all four.
"""
EXAMPLE_REPORT: Final = {
    "status": "broken",
    "summary": "A promise is broken: I2 balance. Each fault names its first row.",
    "checkedAt": "2026-01-31T12:00:07.250000Z",
    "faults": [
        {
            "check": "balance",
            "invariant": "I2",
            "table": "wallets",
            "row": "wallet alice",
            "expected": "balance 75.0000, the fold of its 9 events",
            "found": "balance 80.0000, and 75.0000 at its last event",
            "count": 1,
            "foundAt": "2026-01-31T12:00:05.125000Z",
            "detail": "Broken: each wallet = its last event = the fold of its events. Run `wallet verify` for the "
            "whole picture, keep a dump, find out who could write. Do not repair by hand: corrections are new "
            "deposits, withdrawals or transfers.",
        }
    ],
    "warnings": [],
    "checks": [
        {
            "name": "balance",
            "invariant": "I2",
            "promise": "each wallet = its last event = the fold of its events",
            "status": "broken",
            "lookedAt": 2000,
            "faults": 1,
        },
    ],
    "conservation": {
        "deposits": "250000.0000",
        "withdrawals": "1000.5000",
        "balances": "248999.5000",
        "inFlight": "0.0000",
    },
    "journal": {"positions": 48211, "gaps": 0},
    "transfers": {"stuck": 0, "oldest": None},
    "oldestUnsealedSeconds": 0.0,
    "oldestUnpublishedSeconds": 0.0,
    "worker": {"lagEvents": 0, "lagSeconds": 0.0},
    "deadLettersOpen": 0,
    "incremental": {"ageSeconds": 2.125, "tookSeconds": 0.004, "position": 48211, "behindBatches": 0},
    "fullPass": {
        "ageSeconds": 41.5,
        "durationSeconds": 22.75,
        "underWay": {"ageSeconds": 11.5, "progress": 0.42, "expectedSeconds": 27.4},
    },
}
