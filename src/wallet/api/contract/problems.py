"""Every refusal that a client can get, in one table: code → status, title and RFC 9457 document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Annotated, Final

import msgspec

from wallet.domain.identifiers import RequestId
from wallet.domain.outcomes import Rejection

CONTENT_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = "1"
NO_EFFECT: Final = (
    "This attempt had no effect. An attempt with the same key through another process, or before a restart, "
    "may still take effect."
)
"""Included in every `not_executed`: the problem describes only this attempt."""


@unique
class Code(StrEnum):
    """The stable code of a problem; clients branch on it."""

    WALLET_NOT_FOUND = "wallet_not_found"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    BALANCE_LIMIT_EXCEEDED = "balance_limit_exceeded"
    TRANSFER_FAILED = "transfer_failed"
    SAME_WALLET = "same_wallet"
    ATOMIC_NOT_AVAILABLE = "atomic_not_available"
    INVALID_AMOUNT = "invalid_amount"
    INVALID_REQUEST = "invalid_request"
    INVALID_JSON = "invalid_json"
    INCOMPLETE_BODY = "incomplete_body"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    ROUTE_NOT_FOUND = "route_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    INTERNAL_ERROR = "internal_error"
    NOT_EXECUTED = "not_executed"
    OUTCOME_UNKNOWN = "outcome_unknown"
    UNAVAILABLE = "unavailable"
    NOT_READY = "not_ready"


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """The fields that all problems of one code share."""

    status: int
    title: str


KINDS: Final[Mapping[Code, ProblemKind]] = {
    Code.WALLET_NOT_FOUND: ProblemKind(404, "The wallet does not exist"),
    Code.INSUFFICIENT_FUNDS: ProblemKind(400, "The wallet does not hold enough"),
    Code.BALANCE_LIMIT_EXCEEDED: ProblemKind(400, "The balance would exceed its limit"),
    Code.TRANSFER_FAILED: ProblemKind(409, "The transfer failed and the money is back"),
    Code.SAME_WALLET: ProblemKind(400, "A wallet cannot transfer to itself"),
    Code.ATOMIC_NOT_AVAILABLE: ProblemKind(400, "Atomic requests are not available here"),
    Code.INVALID_AMOUNT: ProblemKind(400, "The amount is not valid"),
    Code.INVALID_REQUEST: ProblemKind(400, "The request is not valid"),
    Code.INVALID_JSON: ProblemKind(400, "The body is not valid JSON"),
    Code.INCOMPLETE_BODY: ProblemKind(400, "The body ended too early"),
    Code.UNAUTHENTICATED: ProblemKind(401, "A valid API key is required"),
    Code.FORBIDDEN: ProblemKind(403, "The API key does not permit this"),
    Code.RATE_LIMITED: ProblemKind(429, "Too many requests"),
    Code.ROUTE_NOT_FOUND: ProblemKind(404, "There is no such route"),
    Code.METHOD_NOT_ALLOWED: ProblemKind(405, "The route does not take this method"),
    Code.REQUEST_TIMEOUT: ProblemKind(408, "The body took too long to arrive"),
    Code.BODY_TOO_LARGE: ProblemKind(413, "The body is too large"),
    Code.UNSUPPORTED_MEDIA_TYPE: ProblemKind(415, "The body must be JSON"),
    Code.IDEMPOTENCY_KEY_REUSED: ProblemKind(422, "The key belongs to another request"),
    Code.INTERNAL_ERROR: ProblemKind(500, "The service failed"),
    Code.NOT_EXECUTED: ProblemKind(503, "This attempt was not executed"),
    Code.OUTCOME_UNKNOWN: ProblemKind(503, "The outcome of the request is unknown"),
    Code.UNAVAILABLE: ProblemKind(503, "The database cannot be read now"),
    Code.NOT_READY: ProblemKind(503, "The service is not ready"),
}

CODE_OF_REJECTION: Final[Mapping[Rejection, Code]] = {
    Rejection.WALLET_NOT_FOUND: Code.WALLET_NOT_FOUND,
    Rejection.INSUFFICIENT_FUNDS: Code.INSUFFICIENT_FUNDS,
    Rejection.BALANCE_LIMIT_EXCEEDED: Code.BALANCE_LIMIT_EXCEEDED,
    Rejection.TRANSFER_FAILED: Code.TRANSFER_FAILED,
}


class FieldError(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong, and where: in the body, the path or query, a header, or a check of /readyz."""

    code: Code
    detail: str
    pointer: Annotated[str | None, msgspec.Meta(description="The JSON pointer to the field of the body.")] = None
    parameter: Annotated[str | None, msgspec.Meta(description="The name of the parameter in the path or query.")] = None
    header: Annotated[str | None, msgspec.Meta(description="The name of the header.")] = None
    check: Annotated[str | None, msgspec.Meta(description="The name of the check of /readyz.")] = None

    @property
    def sentence(self) -> str:
        """Returns the error with the name of the invalid part."""
        name = self.header or self.parameter or (self.pointer or "").removeprefix("/") or "the body"
        return f"{name} {self.detail}."


class Problem(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Why a request was refused (RFC 9457)."""

    type: Annotated[str, msgspec.Meta(description="The name of the problem; it is not an address.")]
    title: str
    status: int
    detail: Annotated[str, msgspec.Meta(description="What happened, and what to do.")]
    code: Annotated[Code, msgspec.Meta(description="Stable: branch on it.")]
    message: Annotated[str, msgspec.Meta(description="The same as `detail`, for clients of the reference system.")]
    status_code: Annotated[int, msgspec.Meta(description="The same as `status`, for clients of the reference system.")]
    request_id: Annotated[str | None, msgspec.Meta(description="The idempotency key, if it is known.")] = None
    errors: Annotated[Sequence[FieldError], msgspec.Meta(description="Each thing that is wrong with the request.")] = ()
    index: (
        Annotated[
            int, msgspec.Meta(ge=0, description="In an atomic request: the position of the refused operation, from 0.")
        ]
        | None
    ) = None


class Refused(Exception):
    """The request is answered with a problem of this code; it moved no money."""

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        index: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.index = index
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}

    @property
    def status(self) -> int:
        """Returns the HTTP status of the answer."""
        return KINDS[self.code].status

    def body(self, request_id: RequestId | None) -> bytes:
        """Returns the problem document."""
        return problem_body(self.code, self.detail, request_id=request_id, errors=self.errors, index=self.index)


def problem_body(
    code: Code,
    detail: str,
    *,
    request_id: RequestId | None = None,
    errors: Sequence[FieldError] = (),
    index: int | None = None,
) -> bytes:
    """Returns a problem as bytes; the same arguments always return the same bytes, so that it can be stored."""
    kind = KINDS[code]
    status = kind.status
    return _encode(Problem(type_of(code), kind.title, status, detail, code, detail, status, request_id, errors, index))


def type_of(code: Code) -> str:
    """Returns the problem's type. It is a name, not an address, so that it can never become a dead link."""
    return f"urn:wallet:problem:{code}"


def refusal_of(errors: Sequence[FieldError]) -> Refused:
    """Returns one refusal for all errors. It has the errors' code if they all have the same one."""
    codes = {error.code for error in errors}
    code = codes.pop() if len(codes) == 1 else Code.INVALID_REQUEST
    detail = errors[0].sentence if len(errors) == 1 else f"{len(errors)} things are wrong; see errors."
    return Refused(code, detail, errors=errors)


_encode: Final = msgspec.json.Encoder().encode
