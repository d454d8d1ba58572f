"""Builds the audit trail's record of a POST: bounded in size, and without secrets.

Headers are selected by an allow-list, so that a secret in a header of any name is never stored. A POST that was refused
at the edge moved nothing and can be sent by anyone at any rate, so less of it is stored.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_plus

import msgspec

from wallet.api.edge.exchange import Exchange
from wallet.trail.records import TrailRecord

REDACTED: Final = "[redacted]"
BODY_BYTES_MAX: Final = 4096
HEADERS_BYTES_MAX: Final = 2048
REFUSED_BYTES_MAX: Final = 2048
"""The limit for headers and body together of a POST that was refused at the edge."""
URL_LENGTH_MAX: Final = 2048
REFUSED_URL_LENGTH_MAX: Final = 512
HEADER_LENGTH_MAX: Final = 256
CUT_HEADER_LENGTH_MAX: Final = 48
"""Each value is cut to this length if all together exceed HEADERS_BYTES_MAX."""

HEADERS_KEPT: Final = (
    "host", "user-agent", "content-type", "content-length", "content-encoding", "transfer-encoding", "accept",
    "origin", "referer", "forwarded", "x-forwarded-for", "x-request-id", "traceparent", "idempotency-key",
)  # fmt: skip
_SECRET_WORDS: Final = (
    "apikey", "assertion", "auth", "cookie", "credential", "passphrase", "passwd", "password", "secret",
    "session", "signature", "token",
)  # fmt: skip
_SECRET_NAMES: Final = frozenset({"code", "jwt", "key", "pass", "pwd", "sid", "sig"})


def trail_record_of(exchange: Exchange) -> TrailRecord:
    """Returns the record of a POST as far as it is known now; the handlers set wallet and key before this is called."""
    return TrailRecord(
        api_audit_id=exchange.api_audit_id,
        method=exchange.method,
        url=redact_url(_url_of(exchange))[:URL_LENGTH_MAX],
        body=_text_of(exchange.body[:BODY_BYTES_MAX]),
        body_length=exchange.body_length,
        body_sha256=exchange.body_sha256,
        headers_json=headers_json(exchange.headers, exchange.correlation_id),
        client_ip=exchange.client_ip,
        wallet_id=exchange.wallet_id,
        request_id=exchange.request_id,
    )


def refused_record_of(exchange: Exchange) -> TrailRecord:
    """Returns the record of a POST that was refused at the edge: at most REFUSED_BYTES_MAX of headers and body."""
    record = trail_record_of(exchange)
    room = REFUSED_BYTES_MAX - len(record.headers_json.encode())
    body = record.body.encode()[: max(0, room)].decode("utf-8", "ignore")
    return msgspec.structs.replace(record, url=record.url[:REFUSED_URL_LENGTH_MAX], body=body)


def headers_json(headers: Mapping[str, str], correlation_id: str) -> str:
    """Returns the kept headers as a JSON object. x-request-id is the one in the answer, even if this service created
    it.
    """
    kept = {name: headers[name][:HEADER_LENGTH_MAX] for name in HEADERS_KEPT if name in headers}
    kept["x-request-id"] = correlation_id
    if "referer" in kept:
        kept["referer"] = redact_url(headers["referer"])[:HEADER_LENGTH_MAX]
    encoded = _encode(kept)
    if len(encoded) > HEADERS_BYTES_MAX:
        cut = {name: value[:CUT_HEADER_LENGTH_MAX] for name, value in kept.items()}
        encoded = _encode(cut | {"x-request-id": correlation_id})
    return encoded.decode()


def redact_url(url: str) -> str:
    """Returns the address without a password, and with secrets in the query replaced."""
    if "?" not in url and "@" not in url and "#" not in url:
        return url
    address, question_mark, query = url.partition("#")[0].partition("?")
    return _without_login(address) + question_mark + "&".join(_redact_pair(pair) for pair in query.split("&"))


@lru_cache(maxsize=1024)
def is_secret(name: str) -> bool:
    """Returns whether a query parameter of this name carries a secret."""
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


def _text_of(body: bytes) -> str:
    """Returns the body as text that the database accepts."""
    return body.decode("utf-8", "replace").replace("\x00", "\ufffd")


def _url_of(exchange: Exchange) -> str:
    path = exchange.raw_path.decode("latin-1")
    return f"{path}?{exchange.query}" if exchange.query else path


_encode: Final = msgspec.json.Encoder().encode
