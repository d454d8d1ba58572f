"""What each route takes and gives, for the OpenAPI document; a test holds it against the routes served."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from wallet.api.metrics import CONTENT_TYPE as METRICS_CONTENT_TYPE
from wallet.api.problems import Code
from wallet.api.schemas import (
    JSON,
    AliveResponse,
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


_WALLET_ID: Final = Parameter("id", "path", "The wallet.", WalletIdText)
_KEY: Final = Parameter(
    "Idempotency-Key",
    "header",
    "The key, instead of `requestId` or equal to it; bare, or as a quoted string.",
    # Without an example: Swagger UI would fill it in beside a body that has a key of its own.
    {"type": "string", "pattern": f"^{ID_PATTERN}$"},
)
_LIMIT: Final = Parameter(
    "limit",
    "query",
    "How many events; more than 200 is served as 200.",
    {"type": "integer", "minimum": 1, "default": 50},
)
_CURSOR: Final = Parameter(
    "cursor",
    "query",
    "Continues where the page before ended: taken from its `Link` header, not together with `before`.",
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
# Each operation has a key of its own in its example, because a key belongs to one request.
_DEPOSIT_EXAMPLES: Final = {
    "exact": {"amount": "100.50", "requestId": "deposit-4711"},
    "a number, and no key": {"amount": 100},
}
_DEPOSITED: Final = {
    "walletId": "alice",
    "balance": "100.5000",
    "requestId": "deposit-4711",
    "created": True,
}
_WITHDRAW_EXAMPLES: Final = {"exact": {"amount": "0.50", "requestId": "withdrawal-4712"}}
_WITHDRAWN: Final = {
    "walletId": "alice",
    "balance": "100.0000",
    "requestId": "withdrawal-4712",
    "created": False,
}
_TRANSFER_EXAMPLES: Final = {"exact": {"toWalletId": "bob", "amount": "25.00", "requestId": "transfer-4713"}}
_TRANSFERRED: Final = {
    "transferId": "01890a5d-ac96-774b-bcce-b302099a8057",
    "fromWalletId": "alice",
    "toWalletId": "bob",
    "amount": "25.0000",
    "status": "completed",
    "requestId": "transfer-4713",
    "fromBalance": "75.0000",
    "toBalance": "25.0000",
}

_MONEY: Final = (
    Operation(
        method="post",
        path="/wallet/{id}/deposit",
        operation_id="deposit",
        tag="money",
        summary="Deposit",
        description="Adds an amount to a wallet, which is made if it does not exist.",
        parameters=(_WALLET_ID, _KEY),
        request=MoveRequest,
        request_examples=_DEPOSIT_EXAMPLES,
        status=201,
        success="The amount is in the wallet.",
        response=MoveResponse,
        response_example=_DEPOSITED,
        headers=("Idempotency-Replayed",),
        codes=(Code.BALANCE_LIMIT_EXCEEDED, *_MOVE),
    ),
    Operation(
        method="post",
        path="/wallet/{id}/withdraw",
        operation_id="withdraw",
        tag="money",
        summary="Withdraw",
        description="Takes an amount from a wallet; never more than it holds.",
        parameters=(_WALLET_ID, _KEY),
        request=MoveRequest,
        request_examples=_WITHDRAW_EXAMPLES,
        status=201,
        success="The amount has left the wallet.",
        response=MoveResponse,
        response_example=_WITHDRAWN,
        headers=("Idempotency-Replayed",),
        codes=(Code.INSUFFICIENT_FUNDS, Code.WALLET_NOT_FOUND, *_MOVE),
    ),
    Operation(
        method="post",
        path="/wallet/{id}/transfer",
        operation_id="transfer",
        tag="money",
        summary="Transfer",
        description="Moves an amount to another wallet, which is made if it does not exist.",
        parameters=(_WALLET_ID, _KEY),
        request=TransferRequest,
        request_examples=_TRANSFER_EXAMPLES,
        status=201,
        success="The transfer is complete.",
        response=TransferResponse,
        response_example=_TRANSFERRED,
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
        success="The balance now.",
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
        description="The wallet's events, newest first, in the wallet's own order. Unknown parameters are ignored.",
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
        summary="Totals and suspicion",
        description="What the worker has counted so far: it follows the log, usually within a second.",
        parameters=(_WALLET_ID,),
        success="The totals.",
        response=StatsResponse,
        codes=_READ,
    ),
)

_OPERATING: Final = (
    Operation(
        method="get",
        path="/healthz",
        operation_id="isAlive",
        tag="operating",
        summary="Is the process alive?",
        description="Asks nothing but the process itself.",
        success="It is.",
        response=AliveResponse,
        codes=_ANY,
    ),
    Operation(
        method="get",
        path="/readyz",
        operation_id="isReady",
        tag="operating",
        summary="Can requests be served?",
        description="`degraded` is still ready: a broker that is down delays events and loses none.",
        success="They can.",
        response=ReadyResponse,
        codes=(Code.NOT_READY, *_ANY),
    ),
    Operation(
        method="get",
        path="/metrics",
        operation_id="getMetrics",
        tag="operating",
        summary="Metrics",
        description="In Prometheus' text format.",
        success="The metrics.",
        content_type=METRICS_CONTENT_TYPE,
        codes=_ANY,
    ),
)

OPERATIONS: Final = (*_MONEY, *_READING, *_OPERATING)
