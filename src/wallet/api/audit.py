"""What the audit trail keeps of a POST: all of it, but no secrets and no more than a bounded size."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_plus

import msgspec

from wallet.api.exchange import Exchange
from wallet.ledger.audit import AuditRecord

REDACTED: Final = "[redacted]"
BODY_BYTES_MAX: Final = 4096
URL_LENGTH_MAX: Final = 2048
HEADER_LENGTH_MAX: Final = 1024

_SECRET_WORDS: Final = (
    "apikey", "assertion", "auth", "cookie", "credential", "passphrase", "passwd", "password", "secret",
    "session", "signature", "token",
)  # fmt: skip
_SECRET_NAMES: Final = frozenset({"code", "jwt", "key", "pass", "pwd", "sid", "sig"})
_ADDRESS_HEADERS: Final = frozenset({"referer", "location", "content-location"})


def audit_record_of(exchange: Exchange) -> AuditRecord:
    """The record of a POST as far as it is known now; the handlers fill in wallet and key before."""
    return AuditRecord(
        api_audit_id=exchange.api_audit_id,
        method=exchange.method,
        url=redact_url(_url_of(exchange))[:URL_LENGTH_MAX],
        body=exchange.body[:BODY_BYTES_MAX].decode("utf-8", "replace").replace("\x00", "\ufffd"),
        body_length=exchange.body_length,
        body_sha256=exchange.body_sha256,
        headers_json=_encode(redact_headers(exchange.headers)).decode(),
        client_ip=exchange.client_ip,
        wallet_id=exchange.wallet_id,
        request_id=exchange.request_id,
    )


def redact_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers with the values of secrets replaced, and over-long ones cut."""
    kept = {}
    for name, value in headers.items():
        if is_secret(name):
            kept[name] = REDACTED
        elif name in _ADDRESS_HEADERS:
            kept[name] = redact_url(value)[:HEADER_LENGTH_MAX]
        else:
            kept[name] = value[:HEADER_LENGTH_MAX]
    return kept


def redact_url(url: str) -> str:
    """The address without a password, and with the query's secrets replaced."""
    if "?" not in url and "@" not in url and "#" not in url:
        return url
    address, question_mark, query = url.partition("#")[0].partition("?")
    return _without_login(address) + question_mark + "&".join(_redact_pair(pair) for pair in query.split("&"))


@lru_cache(maxsize=1024)
def is_secret(name: str) -> bool:
    """Whether a header or query parameter of this name carries a secret."""
    plain = "".join(character for character in name.lower() if character.isalnum())
    return plain in _SECRET_NAMES or any(word in plain for word in _SECRET_WORDS)


def _redact_pair(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    return f"{name}={REDACTED}" if equals and is_secret(unquote_plus(name)) else pair


def _without_login(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    if not separator or "@" not in rest.partition("/")[0]:
        return address
    return f"{scheme}://{REDACTED}@{rest.partition('@')[2]}"


def _url_of(exchange: Exchange) -> str:
    path = exchange.raw_path.decode("latin-1")
    return f"{path}?{exchange.query}" if exchange.query else path


_encode: Final = msgspec.json.Encoder().encode
