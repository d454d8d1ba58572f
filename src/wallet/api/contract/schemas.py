"""The shapes of requests and responses: what is encoded, and what the OpenAPI document says."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from wallet.domain.identifiers import ID_LENGTH_MAX, ID_PATTERN

JSON: Final = "application/json"
OPERATIONS_MAX: Final = 1000
"""How many operations a bulk request may hold: it is one database transaction, which others on its wallets wait for."""

_AMOUNT_SCHEMA: Final = {
    "type": ["string", "number"],
    "pattern": r"^(0|[1-9][0-9]{0,14})(\.[0-9]{1,4})?$",
    "exclusiveMinimum": 0,
    "maximum": 100_000_000_000_000,
}
_ID_SCHEMA: Final = {"pattern": f"^{ID_PATTERN}$", "minLength": 1, "maxLength": ID_LENGTH_MAX}

AmountIn = Annotated[
    msgspec.Raw,
    Meta(
        description="A plain decimal, as a JSON number or a string: at most 4 decimals, greater than 0, at most "
        "10^14, no sign or exponent. Read exactly as it is spelled, never through a floating-point number.",
        examples=["100.50", 100],
        extra_json_schema=_AMOUNT_SCHEMA,
    ),
]
Money = Annotated[
    str,
    Meta(
        description="A decimal with exactly 4 decimals.",
        examples=["100.0000"],
        extra_json_schema={"pattern": r"^[0-9]{1,34}\.[0-9]{4}$"},
    ),
]
WalletIdText = Annotated[
    str,
    Meta(description="The id of a wallet.", examples=["alice"], extra_json_schema=_ID_SCHEMA),
]
RequestIdText = Annotated[
    str,
    Meta(
        description="The idempotency key of the request, within the wallet it is sent to.",
        extra_json_schema=_ID_SCHEMA,
    ),
]
Time = Annotated[
    str,
    Meta(
        description="RFC 3339, UTC, microseconds.",
        examples=["2026-01-31T12:00:00.000001Z"],
        extra_json_schema={"format": "date-time"},
    ),
]


class MoveRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A deposit or withdrawal."""

    amount: AmountIn
    request_id: RequestIdText | msgspec.UnsetType = msgspec.UNSET


class TransferRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A transfer; the sender is the wallet of the path."""

    to_wallet_id: WalletIdText
    amount: AmountIn
    request_id: RequestIdText | msgspec.UnsetType = msgspec.UNSET


class _Operation(msgspec.Struct, rename="camel", forbid_unknown_fields=True, tag_field="type"):
    """What every operation of a bulk request has: its key is required, so that the request can be sent again."""

    wallet_id: WalletIdText
    amount: AmountIn
    request_id: RequestIdText


class DepositOperation(_Operation, tag="deposit"):
    """A deposit, as part of a bulk request."""


class WithdrawOperation(_Operation, tag="withdraw"):
    """A withdrawal, as part of a bulk request."""


class TransferOperation(_Operation, tag="transfer"):
    """A transfer, as part of a bulk request; the sender is `walletId`."""

    to_wallet_id: WalletIdText


class BulkRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Operations to run in order: each on its own, or all or none."""

    mode: Annotated[
        Literal["independent", "atomic"],
        Meta(description="independent: each operation has its own outcome. atomic: all take effect, or none does."),
    ]
    operations: Annotated[
        list[DepositOperation | WithdrawOperation | TransferOperation],
        Meta(min_length=1, max_length=OPERATIONS_MAX, description="They are run in this order."),
    ]


class BulkResult(msgspec.Struct, frozen=True, rename="camel"):
    """The outcome of one operation: what its own route would have answered."""

    status: Annotated[int, Meta(description="The status that the operation's own route gives.", examples=[201])]
    replayed: Annotated[bool, Meta(description="Whether this is the answer to an earlier request with the same key.")]
    body: Annotated[
        msgspec.Raw,
        Meta(
            description="The body that the operation's own route gives.",
            extra_json_schema={
                "anyOf": [
                    {"$ref": f"#/components/schemas/{name}"} for name in ("MoveResponse", "TransferResponse", "Problem")
                ]
            },
        ),
    ]


class BulkResponse(msgspec.Struct, frozen=True, rename="camel"):
    """One result for each operation, in their order."""

    results: Sequence[BulkResult]


class MoveResponse(msgspec.Struct, frozen=True, rename="camel"):
    """The result of a deposit or withdrawal."""

    wallet_id: WalletIdText
    balance: Money
    request_id: RequestIdText
    created: Annotated[bool, Meta(description="Whether this deposit created the wallet.")]


class TransferResponse(msgspec.Struct, frozen=True, rename="camel"):
    """The result of a transfer; both balances are those right after it."""

    transfer_id: Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
    from_wallet_id: WalletIdText
    to_wallet_id: WalletIdText
    amount: Money
    status: Literal["completed"]
    request_id: RequestIdText
    from_balance: Money
    to_balance: Money


class WalletResponse(msgspec.Struct, frozen=True, rename="camel"):
    """The current balance of a wallet; 0.0000 if the wallet does not exist."""

    wallet_id: WalletIdText
    balance: Money
    exists: bool


class HistoryItem(msgspec.Struct, frozen=True, rename="camel"):
    """One event of the wallet."""

    id: Annotated[str, Meta(description="The event's id.", extra_json_schema={"format": "uuid"})]
    wallet_id: WalletIdText
    transfer_id: Annotated[str | None, Meta(description="The transfer it belongs to, if any.")]
    type: Annotated[str, Meta(examples=["FundsDeposited"])]
    occurred_at: Time
    payload: Annotated[
        msgspec.Raw,
        Meta(
            description="What the event says; its fields depend on the type.",
            extra_json_schema={"type": "object"},
        ),
    ]


class StatsResponse(msgspec.Struct, frozen=True, rename="camel"):
    """The totals that the worker has counted; zeros for a wallet of which it has counted nothing."""

    wallet_id: WalletIdText
    total_deposited: Money
    total_withdrawn: Money
    total_transferred_out: Money
    total_transferred_in: Money
    last_activity_at: Time | None
    suspicious: Annotated[bool, Meta(description="Whether a fraud rule has flagged the wallet.")]
    suspicious_reason: str | None
    created_at: Annotated[
        Time | None,
        Meta(description="When the worker first counted an event of the wallet; null if it is not known."),
    ]
    updated_at: Annotated[
        Time | None,
        Meta(description="When the worker last counted an event of the wallet; null if it is not known."),
    ]
    as_of: Annotated[
        Time | None,
        Meta(
            description="Every change that was committed before this time is in the totals, whichever wallet it "
            "concerns; null if that is not known yet.",
        ),
    ]


class AliveResponse(msgspec.Struct, frozen=True):
    """The process is alive."""

    status: Literal["alive"] = "alive"


class CheckResult(msgspec.Struct, frozen=True):
    """The result of one check that readiness depends on."""

    name: Annotated[str, Meta(examples=["database"])]
    status: Literal["ok", "degraded", "failed"]
    detail: str


class ReadyResponse(msgspec.Struct, frozen=True):
    """The service is ready; `degraded` means that events leave it late."""

    status: Literal["ready", "degraded"]
    checks: Sequence[CheckResult]
