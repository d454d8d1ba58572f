"""One request on its way through the edge, with everything known about it.

This includes the ids that connect it to its caller's logs (X-Request-Id and traceparent, accepted or created), and the
client's address: that of the socket, or the one that a trusted proxy reports.
"""

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

import uuid_utils

from wallet.access.principal import ANYBODY, Principal
from wallet.domain.identifiers import ApiAuditId, RequestId, WalletId, is_id
from wallet.postgres.statements import uuid7
from wallet.runtime.addresses import Address, read_address

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace_id>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII
)
UNMATCHED_ROUTE: Final = "unmatched"
SHA256_OF_NOTHING: Final = sha256().digest()
_NO_PARAMETERS: Final[Mapping[str, str]] = {}
Scope = dict[str, Any]
Network = IPv4Network | IPv6Network
ENTRIES_MAX: Final = 20
"""How many hops of X-Forwarded-For are read; no real chain of proxies is longer."""


def correlate(given_id: str | None, given_traceparent: str | None) -> tuple[str, str]:
    """Returns the request's X-Request-Id and traceparent: the caller's if they are well-formed, else new ones."""
    match = None if given_traceparent is None else _TRACEPARENT.fullmatch(given_traceparent)
    trace_id = uuid_utils.uuid4().hex if match is None else match["trace_id"]
    correlation_id = trace_id if given_id is None or not is_id(given_id) else given_id
    if match is not None:
        return correlation_id, match[0]
    # The low half of a random uuid starts with its variant bits, so it is never the forbidden all-zero span.
    return correlation_id, f"00-{trace_id}-{uuid_utils.uuid4().hex[16:]}-00"


class Exchange:
    """A request: what the client sent, its ids, and what the handlers found out about it.

    The edge creates it, passes it to the handler, and then logs, counts and records from it. `path_values` are the
    variable parts of the path. `client` identifies the client in limits: its address or, with a
    key, the key. `parameters` are those of the query, once
    their names are checked. `body_length` and `body_sha256` cover everything that was read, which can be more than
    `body` keeps.
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
        "principal",
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
        self.principal: Principal = ANYBODY
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
    """Names are already lower case. A header given twice is joined, so that no strict rule can match it."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def client_ip(peer: str, forwarded_for: str | None, trusted_proxies: Sequence[Network]) -> str:
    """Returns the address nearest to this server that is not a trusted proxy's.

    X-Forwarded-For is read from the right, because only entries that our own proxies appended can be trusted: the first
    address that is not one of theirs is the client. An entry that is not an address ends the search.
    """
    if not trusted_proxies or forwarded_for is None:
        return peer
    nearest = _parse(peer)
    if nearest is None or not _is_trusted(nearest, trusted_proxies):
        return peer
    for entry in reversed(forwarded_for.rsplit(",", ENTRIES_MAX)[-ENTRIES_MAX:]):
        address = _parse(entry)
        if address is None:
            break
        nearest = address
        if not _is_trusted(address, trusted_proxies):
            break
    return str(nearest)


def _is_trusted(address: Address, trusted_proxies: Sequence[Network]) -> bool:
    return any(address in network for network in trusted_proxies)


def _parse(entry: str) -> Address | None:
    text = entry.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return read_address(text)
