"""The answer of `GET /integrity` that the OpenAPI document shows."""

from typing import Final

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
