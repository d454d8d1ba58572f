"""What each route takes and gives, for the OpenAPI document; a test compares it with the routes served."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from wallet.api.contract.examples import (
    BULK_DONE,
    BULK_EXAMPLES,
    DEPOSIT_EXAMPLES,
    DEPOSITED,
    STATS,
    TRANSFER_EXAMPLES,
    TRANSFERRED,
    WITHDRAW_EXAMPLES,
    WITHDRAWN,
)
from wallet.api.contract.integrity_example import AUDIT_DESCRIPTION, EXAMPLE_REPORT
from wallet.api.contract.integrity_schemas import IntegrityResponse
from wallet.api.contract.problems import Code
from wallet.api.contract.schemas import (
    JSON,
    AliveResponse,
    BulkRequest,
    BulkResponse,
    HistoryItem,
    MoveRequest,
    MoveResponse,
    ReadyResponse,
    StatsResponse,
    TransferRequest,
    TransferResponse,
    WalletIdText,
    WalletResponse,
)
from wallet.domain.identifiers import ID_PATTERN
from wallet.runtime.metrics import CONTENT_TYPE as METRICS_CONTENT_TYPE


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value in the path, the query or a header; the schema is a type, or JSON Schema itself."""

    name: str
    place: Literal["path", "query", "header"]
    description: str
    schema: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one route."""

    method: Literal["get", "post"]
    path: str
    operation_id: str
    tag: Literal["money", "reading", "operating"]
    summary: str
    description: str
    parameters: tuple[Parameter, ...] = ()
    request: Any = None
    request_examples: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    success: str
    response: Any = None
    response_example: Any = None
    content_type: str = JSON
    headers: tuple[str, ...] = ()
    codes: tuple[Code, ...] = ()


_WALLET_ID: Final = Parameter("id", "path", "The id of the wallet.", WalletIdText)
_KEY: Final = Parameter(
    "Idempotency-Key",
    "header",
    "The idempotency key, instead of `requestId` or equal to it; either bare or as a quoted string.",
    # Without an example: Swagger UI would fill it in beside a body that has a key of its own.
    {"type": "string", "pattern": f"^{ID_PATTERN}$"},
)
_LIMIT: Final = Parameter(
    "limit",
    "query",
    "The highest number of events in the answer; more than 200 is served as 200.",
    {"type": "integer", "minimum": 1, "default": 50},
)
_CURSOR: Final = Parameter(
    "cursor",
    "query",
    "Continues where the previous page ended. It comes from that page's `Link` header, and cannot be combined with "
    "`before`.",
    {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
)
_BEFORE: Final = Parameter(
    "before",
    "query",
    "Only events earlier than this RFC 3339 time, exact to the microsecond.",
    {"type": "string", "format": "date-time"},
)

_ANY: Final = (Code.INTERNAL_ERROR,)
_READ: Final = (Code.INVALID_REQUEST, Code.UNAVAILABLE, *_ANY)
_MOVE: Final = (
    Code.INVALID_AMOUNT,
    Code.INVALID_REQUEST,
    Code.INVALID_JSON,
    Code.INCOMPLETE_BODY,
    Code.REQUEST_TIMEOUT,
    Code.BODY_TOO_LARGE,
    Code.UNSUPPORTED_MEDIA_TYPE,
    Code.IDEMPOTENCY_KEY_REUSED,
    Code.NOT_EXECUTED,
    Code.OUTCOME_UNKNOWN,
    *_ANY,
)
_BULK_DESCRIPTION: Final = """\
Runs 1 to 1,000 operations in order. The body may have up to 1 MiB. Each operation has its key in `requestId`, with \
the same scope as on the operation's own route, so the whole request can be sent again safely.

**independent**: each operation has its own outcome. `results` lists the outcomes in the order of the operations, each \
with the status and body of the operation's own route; an invalid operation gets a 400 there. The answer as a whole is \
200.

**atomic**: all operations take effect, or none does. The first refusal is the answer to the whole request, with the \
position of the refused operation in `index`, and is stored for every key. Each key then stands for the whole request: \
a request that differs, or that mixes used and new keys, is answered 422. This mode is not available if \
`TRANSFER_MODE` is `stepwise`.

Two requests of one client address run at a time; further ones wait for their turn until the deadline. Single requests \
on the same wallets go before a request that waits.
"""

_STATS_DESCRIPTION: Final = """\
The totals that a worker has counted. They follow the changes of the wallet, usually within a second. `asOf` says how \
far: a change that was answered before that time is in the totals. It moves on by itself about twice a second, also \
while nothing happens, and never past a change that is not counted. So it stands still while no worker runs, and while \
the event of any wallet waits as a dead letter. A rebuild of the statistics sets `createdAt` and `updatedAt` again.
"""

_MONEY: Final = (
    Operation(
        method="post",
        path="/wallet/{id}/deposit",
        operation_id="deposit",
        tag="money",
        summary="Deposit",
        description="Adds an amount to a wallet. The first deposit creates the wallet.",
        parameters=(_WALLET_ID, _KEY),
        request=MoveRequest,
        request_examples=DEPOSIT_EXAMPLES,
        status=201,
        success="The amount was added.",
        response=MoveResponse,
        response_example=DEPOSITED,
        headers=("Idempotency-Replayed",),
        codes=(Code.BALANCE_LIMIT_EXCEEDED, *_MOVE),
    ),
    Operation(
        method="post",
        path="/wallet/{id}/withdraw",
        operation_id="withdraw",
        tag="money",
        summary="Withdraw",
        description="Takes an amount from a wallet. The balance never goes below zero.",
        parameters=(_WALLET_ID, _KEY),
        request=MoveRequest,
        request_examples=WITHDRAW_EXAMPLES,
        status=201,
        success="The amount was taken.",
        response=MoveResponse,
        response_example=WITHDRAWN,
        headers=("Idempotency-Replayed",),
        codes=(Code.INSUFFICIENT_FUNDS, Code.WALLET_NOT_FOUND, *_MOVE),
    ),
    Operation(
        method="post",
        path="/wallet/{id}/transfer",
        operation_id="transfer",
        tag="money",
        summary="Transfer",
        description="Moves an amount to another wallet, which is created if it does not exist.",
        parameters=(_WALLET_ID, _KEY),
        request=TransferRequest,
        request_examples=TRANSFER_EXAMPLES,
        status=201,
        success="The transfer is complete.",
        response=TransferResponse,
        response_example=TRANSFERRED,
        headers=("Idempotency-Replayed",),
        codes=(
            Code.SAME_WALLET,
            Code.INSUFFICIENT_FUNDS,
            Code.BALANCE_LIMIT_EXCEEDED,
            Code.WALLET_NOT_FOUND,
            Code.TRANSFER_FAILED,
            *_MOVE,
        ),
    ),
    Operation(
        method="post",
        path="/operations",
        operation_id="runOperations",
        tag="money",
        summary="Run many operations",
        description=_BULK_DESCRIPTION,
        request=BulkRequest,
        request_examples=BULK_EXAMPLES,
        success="The operations were run; each result is the outcome of one operation.",
        response=BulkResponse,
        response_example=BULK_DONE,
        headers=("Idempotency-Replayed",),
        codes=(
            Code.ATOMIC_NOT_AVAILABLE,
            Code.SAME_WALLET,
            Code.INSUFFICIENT_FUNDS,
            Code.BALANCE_LIMIT_EXCEEDED,
            Code.WALLET_NOT_FOUND,
            *_MOVE,
        ),
    ),
)

_READING: Final = (
    Operation(
        method="get",
        path="/wallet/{id}",
        operation_id="getWallet",
        tag="reading",
        summary="Balance",
        description="A wallet that does not exist has the balance 0.0000 and `exists` false.",
        parameters=(_WALLET_ID,),
        success="The current balance.",
        response=WalletResponse,
        response_example={"walletId": "alice", "balance": "100.5000", "exists": True},
        codes=_READ,
    ),
    Operation(
        method="get",
        path="/wallet/{id}/history",
        operation_id="getHistory",
        tag="reading",
        summary="History",
        description="The wallet's events, newest first, in the order of the wallet's versions.",
        parameters=(_WALLET_ID, _LIMIT, _CURSOR, _BEFORE),
        success="A page of events.",
        response=list[HistoryItem],
        headers=("Link",),
        codes=_READ,
    ),
    Operation(
        method="get",
        path="/wallet/{id}/stats",
        operation_id="getStats",
        tag="reading",
        summary="Statistics",
        description=_STATS_DESCRIPTION,
        parameters=(_WALLET_ID,),
        success="The totals.",
        response=StatsResponse,
        response_example=STATS,
        codes=_READ,
    ),
)

_OPERATING: Final = (
    Operation(
        method="get",
        path="/healthz",
        operation_id="isAlive",
        tag="operating",
        summary="Liveness",
        description="Checks the process only, and neither the database nor the broker.",
        success="The process is alive.",
        response=AliveResponse,
        codes=_ANY,
    ),
    Operation(
        method="get",
        path="/readyz",
        operation_id="isReady",
        tag="operating",
        summary="Readiness",
        description="A service that is `degraded` still serves requests: a broker that is down delays events and loses "
        "none.",
        success="The service is ready.",
        response=ReadyResponse,
        codes=(Code.NOT_READY, *_ANY),
    ),
    Operation(
        method="get",
        path="/integrity",
        operation_id="getIntegrity",
        tag="operating",
        summary="Are the books right?",
        description=AUDIT_DESCRIPTION,
        success="What the integrity monitor has found, good or bad.",
        response=IntegrityResponse,
        response_example=EXAMPLE_REPORT,
        codes=(Code.UNAVAILABLE, *_ANY),
    ),
    Operation(
        method="get",
        path="/metrics",
        operation_id="getMetrics",
        tag="operating",
        summary="Metrics",
        description="The metrics of the service, in the text format of Prometheus.",
        success="The metrics.",
        content_type=METRICS_CONTENT_TYPE,
        codes=_ANY,
    ),
)

OPERATIONS: Final = (*_MONEY, *_READING, *_OPERATING)
