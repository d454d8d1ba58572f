"""The gate: checks who a request comes from, and whether it may use its route, before its body is read.

| AUTH | who is served |
|---|---|
| auto | while no key was ever created, and the api listens on loopback: everybody, under a Host name of loopback |
|      | otherwise: who has a key |
| required | who has a key |
| off | everybody |

Without a check of the Host name, a web page could reach an api on its visitor's machine: the page's own name would lead
to 127.0.0.1 (DNS rebinding).
"""

from typing import Final, Literal

from wallet.access.keyring import Keyring
from wallet.access.limits import WRONG_KEYS, InFlight, TokenBuckets, TooMany
from wallet.access.principal import Access, Principal, Scope
from wallet.access.tokens import is_well_formed
from wallet.api.contract.problems import Code, Refused
from wallet.api.edge.exchange import Exchange

AuthMode = Literal["auto", "required", "off"]

_SCHEME: Final = "bearer "
_NO_EFFECT: Final = "This attempt had no effect."
"""Not "nothing moved": an earlier attempt with the same key may still take effect."""
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="wallet"'}


class Unprotected(Exception):
    """The api listens beyond loopback, and nobody could be served, because there is no API key."""


class Gate:
    """The checks of one process."""

    def __init__(self, keyring: Keyring, *, mode: AuthMode, is_loopback: bool) -> None:
        self._keyring = keyring
        self._mode = mode
        self._is_loopback = is_loopback
        self._rates = TokenBuckets()
        self._wrong_keys = TokenBuckets()
        self._in_flight = InFlight()

    @property
    def is_unprotected(self) -> bool:
        """Returns whether nobody could be served: the api listens beyond loopback, needs keys, and there is none."""
        is_empty = self._keyring.is_known and not self._keyring.has_keys
        return self._mode == "auto" and not self._is_loopback and is_empty

    def admit(self, exchange: Exchange, access: Scope | Access) -> None:
        """Set the request's principal, and count the request until `leave`. Raises Refused."""
        if access is Access.PUBLIC or self._mode == "off":
            return
        if self._mode == "auto" and not self._keyring.is_known:
            raise Refused(Code.UNAVAILABLE, f"The API keys can't be read now. {_NO_EFFECT} Try again.")
        if self._mode == "auto" and self._is_loopback and not self._keyring.has_keys:
            _expect_name_of_loopback(exchange)
            return
        principal = self._principal_of(exchange)
        if isinstance(access, Scope):
            expect_scope(principal, access)
        if access is Scope.OPERATE and principal.prefixes:
            raise Refused(Code.FORBIDDEN, "The API key is bound to wallet prefixes, and this route covers all wallets.")
        if principal.limit is not None:
            _expect_room(self._rates.take(principal.key_id, principal.limit), "this API key sent too many requests")
        _expect_room(self._in_flight.begin(principal.key_id), "too many requests of this API key are in flight")
        exchange.principal = principal
        exchange.client = f"key {principal.key_id}"

    def leave(self, exchange: Exchange) -> None:
        """Count the end of a request."""
        if exchange.principal.key_id:
            self._in_flight.end(exchange.principal.key_id)

    def _principal_of(self, exchange: Exchange) -> Principal:
        """Returns the principal of the request's key. Raises Refused."""
        given = exchange.headers.get("authorization", "")
        if given[: len(_SCHEME)].lower() != _SCHEME:
            raise _unauthenticated("An API key is required: send it as `Authorization: Bearer wlt_…`.")
        if not self._keyring.is_known:
            raise Refused(Code.UNAVAILABLE, f"The API keys can't be read now. {_NO_EFFECT} Try again.")
        text = given[len(_SCHEME) :].strip()
        principal = self._keyring.find(text)
        if principal is None:
            _expect_room(self._wrong_keys.take(exchange.client, WRONG_KEYS), "this address sent too many wrong keys")
            if is_well_formed(text):
                raise _unauthenticated("The API key is not known, revoked or expired.")
            raise _unauthenticated("This is not the text of an API key: it is incomplete or mistyped.")
        return principal


def expect_scope(principal: Principal, scope: Scope) -> None:
    """Raises Refused if the principal does not have the scope."""
    if not principal.has(scope):
        raise Refused(Code.FORBIDDEN, lacks_scope(scope))


def lacks_scope(scope: Scope) -> str:
    """Returns the text of a refusal that names the missing scope."""
    return f"The API key lacks the scope `{scope}`. {_NO_EFFECT}"


def _unauthenticated(detail: str) -> Refused:
    return Refused(Code.UNAUTHENTICATED, detail, headers=_CHALLENGE)


def _expect_room(found: TooMany | None, reason: str) -> None:
    if found is not None:
        seconds = str(found.retry_after_seconds)
        headers = {
            "Retry-After": seconds,
            "RateLimit-Limit": str(found.limit),
            "RateLimit-Remaining": "0",
            "RateLimit-Reset": seconds,
        }
        detail = f"{reason[0].upper()}{reason[1:]}. {_NO_EFFECT} Send it again in {seconds} s."
        raise Refused(Code.RATE_LIMITED, detail, headers=headers)


def _expect_name_of_loopback(exchange: Exchange) -> None:
    host = exchange.headers.get("host", "")
    if host and _name_of(host) not in _LOOPBACK_NAMES:
        raise Refused(
            Code.FORBIDDEN,
            "Without API keys, only requests to localhost, 127.0.0.1 or [::1] are served. Create a key with "
            "`wallet key create`, or set AUTH=off.",
        )


def _name_of(host: str) -> str:
    """Returns the name of a Host header without its port."""
    name, separator, port = host.strip().lower().rpartition(":")
    return name if separator and port.isdigit() else host.strip().lower()
