"""The requests and answers that the OpenAPI document shows."""

from typing import Final

import msgspec

from wallet.api.contract.problems import Code, problem_body
from wallet.domain.identifiers import RequestId

# Each operation's example has its own key, because a key belongs to one request.
DEPOSIT_EXAMPLES: Final = {
    "exact": {"amount": "100.50", "requestId": "deposit-4711"},
    "a number, and no key": {"amount": 100},
}
DEPOSITED: Final = {
    "walletId": "alice",
    "balance": "100.5000",
    "requestId": "deposit-4711",
    "created": True,
}
WITHDRAW_EXAMPLES: Final = {"exact": {"amount": "0.50", "requestId": "withdrawal-4712"}}
WITHDRAWN: Final = {
    "walletId": "alice",
    "balance": "100.0000",
    "requestId": "withdrawal-4712",
    "created": False,
}
TRANSFER_EXAMPLES: Final = {"exact": {"toWalletId": "bob", "amount": "25.00", "requestId": "transfer-4713"}}
TRANSFERRED: Final = {
    "transferId": "01890a5d-ac96-774b-bcce-b302099a8057",
    "fromWalletId": "alice",
    "toWalletId": "bob",
    "amount": "25.0000",
    "status": "completed",
    "requestId": "transfer-4713",
    "fromBalance": "75.0000",
    "toBalance": "25.0000",
}
STATS: Final = {
    "walletId": "alice",
    "totalDeposited": "100.5000",
    "totalWithdrawn": "0.5000",
    "totalTransferredOut": "25.0000",
    "totalTransferredIn": "0.0000",
    "lastActivityAt": "2026-01-31T12:00:00.000001Z",
    "suspicious": False,
    "suspiciousReason": None,
    "createdAt": "2026-01-31T11:00:00.025000Z",
    "updatedAt": "2026-01-31T12:00:00.031000Z",
    "asOf": "2026-01-31T12:00:07.500000Z",
}
BULK_EXAMPLES: Final = {
    "independent": {
        "mode": "independent",
        "operations": [
            {"type": "deposit", "walletId": "alice", "amount": "100.50", "requestId": "deposit-4714"},
            {"type": "withdraw", "walletId": "nobody", "amount": "0.50", "requestId": "withdrawal-4715"},
        ],
    },
    "atomic": {
        "mode": "atomic",
        "operations": [
            {"type": "deposit", "walletId": "alice", "amount": 25, "requestId": "deposit-4716"},
            {"type": "transfer", "walletId": "alice", "toWalletId": "bob", "amount": 25, "requestId": "transfer-4717"},
        ],
    },
}
BULK_DONE: Final = {
    "results": [
        {
            "status": 201,
            "replayed": False,
            "body": {"walletId": "alice", "balance": "100.5000", "requestId": "deposit-4714", "created": True},
        },
        {
            "status": 404,
            "replayed": False,
            "body": msgspec.json.decode(
                problem_body(
                    Code.WALLET_NOT_FOUND,
                    "Wallet nobody does not exist. Deposit into it first.",
                    request_id=RequestId("withdrawal-4715"),
                )
            ),
        },
    ]
}


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
