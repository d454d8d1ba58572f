"""One request on its way through the edge, and what becomes known of it."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from wallet.api.edge.correlation import correlate
from wallet.domain.identifiers import ApiAuditId, RequestId, WalletId
from wallet.postgres.uuids import uuid7

UNMATCHED_ROUTE: Final = "unmatched"
SHA256_OF_NOTHING: Final = sha256().digest()
_NO_PARAMETERS: Final[Mapping[str, str]] = {}

Scope = dict[str, Any]


class Exchange:
    """A request: what the client sent, the ids it was given, and what the handlers learned of it.

    The edge creates it, passes it to the handler, and then logs, counts and records from it. `path_values` are the
    variable parts of the path; `client` is who is counted in limits; `parameters` are those of the query, once
    their names are checked. `body_length` and `body_sha256` cover all that was read, which can be more than `body`
    keeps.
    """

    __slots__ = (
        "api_audit_id",
        "body",
        "body_length",
        "body_sha256",
        "client",
        "client_ip",
        "correlation_id",
        "has_reached_ledger",
        "headers",
        "is_recorded",
        "method",
        "parameters",
        "path_values",
        "peer",
        "query",
        "raw_path",
        "request_id",
        "reserved_bytes",
        "route",
        "traceparent",
        "waits_for_room",
        "wallet_id",
    )

    def __init__(self, scope: Scope) -> None:
        self.method: str = scope["method"]
        self.raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        self.query: str = scope["query_string"].decode("latin-1")
        self.parameters = _NO_PARAMETERS
        self.path_values: Mapping[str, str] = _NO_PARAMETERS
        client = scope.get("client")
        self.peer: str = client[0] if client else ""
        self.client_ip: str = self.peer
        self.client: str = self.peer
        self.headers: Mapping[str, str] = _headers_of(scope["headers"])
        self.correlation_id, self.traceparent = correlate(
            self.headers.get("x-request-id"), self.headers.get("traceparent")
        )
        self.body: bytes = b""
        self.body_length: int = 0
        self.body_sha256: bytes = SHA256_OF_NOTHING
        self.api_audit_id = ApiAuditId(uuid7())
        self.route: str = UNMATCHED_ROUTE
        self.wallet_id: WalletId | None = None
        self.request_id: RequestId | None = None
        self.has_reached_ledger: bool = False
        self.is_recorded: bool = False
        self.reserved_bytes: int = 0
        self.waits_for_room: bool = False


def _headers_of(pairs: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Names are lower case already. A header given twice is joined, so that no strict rule can match it."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
