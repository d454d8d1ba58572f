"""The requests and answers shown in the OpenAPI document."""

from typing import Final

import msgspec

from wallet.api.contract.problems import Code, problem_body
from wallet.domain.identifiers import RequestId

# Each operation has a key of its own in its example, because a key belongs to one request.
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
