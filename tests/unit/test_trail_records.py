"""The audit trail keeps requests without their secrets, and knows whose they are."""

import json
from ipaddress import ip_network

import pytest

from wallet.api.edge.exchange import Exchange, client_ip
from wallet.api.edge.trail_records import (
    BODY_BYTES_MAX,
    HEADERS_BYTES_MAX,
    HEADERS_KEPT,
    REDACTED,
    REFUSED_BYTES_MAX,
    headers_json,
    redact_url,
    refused_record_of,
    trail_record_of,
)

OUR_PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def exchange(**parts: object) -> Exchange:
    scope = {
        "method": "POST",
        "path": "/wallet/a/deposit",
        "raw_path": b"/wallet/a/deposit",
        "query_string": b"",
        "headers": [],
        "client": ("192.0.2.1", "1234"),
    }
    return Exchange(scope | parts)


def kept_headers(headers: dict[str, str]) -> dict[str, str]:
    kept: dict[str, str] = json.loads(headers_json(headers, "the-id"))
    assert kept.pop("x-request-id") == "the-id"
    return kept


@pytest.mark.parametrize(
    "name",
    ["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token",
     "x-amz-security-token", "x-csrf-token", "x-session-id", "client-secret", "x-otp", "x-card", "x-unheard-of"],
)  # fmt: skip
def test_a_header_that_is_not_on_the_list_is_not_kept(name: str) -> None:
    assert kept_headers({name: "hunter2"}) == {}


@pytest.mark.parametrize("name", ["host", "user-agent", "content-type", "idempotency-key", "traceparent", "accept"])
def test_headers_on_the_list_are_kept(name: str) -> None:
    assert kept_headers({name: "value"}) == {name: "value"}


@pytest.mark.parametrize("character", ["x", "é", '"'])
def test_headers_take_at_most_two_kib_however_long_they_are(character: str) -> None:
    kept = headers_json(dict.fromkeys(HEADERS_KEPT, character * 30_000), character * 128)
    assert len(kept.encode()) <= HEADERS_BYTES_MAX
    assert json.loads(kept).keys() == set(HEADERS_KEPT)


@pytest.mark.parametrize("body", [b"x" * 64_000, "é".encode() * 20_000, b"\x00\xff" * 20_000])
def test_of_a_refused_request_headers_and_body_take_at_most_two_kib(body: bytes) -> None:
    request = exchange(headers=[(name.encode(), b"v" * 30_000) for name in HEADERS_KEPT])
    request.body, request.body_length = body, len(body)
    record = refused_record_of(request)
    assert len(record.headers_json.encode()) + len(record.body.encode()) <= REFUSED_BYTES_MAX
    assert record.body_length == len(body)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("/wallet/a/deposit", "/wallet/a/deposit"),
        ("/w?a=1&token=t&b=2", f"/w?a=1&token={REDACTED}&b=2"),
        ("/w?access_token=t", f"/w?access_token={REDACTED}"),
        ("/w?%74oken=t", f"/w?%74oken={REDACTED}"),
        ("/w?API-Key=t&api_key=u", f"/w?API-Key={REDACTED}&api_key={REDACTED}"),
        ("/w?token", "/w?token"),
        ("https://user:pass@host/p?q=1#frag", f"https://{REDACTED}@host/p?q=1"),
        ("https://host/u@v", "https://host/u@v"),
    ],
)
def test_addresses_lose_their_secrets(url: str, kept: str) -> None:
    assert redact_url(url) == kept


def test_a_referer_loses_the_secrets_of_its_query() -> None:
    assert kept_headers({"referer": "https://x/?code=s3cret"}) == {"referer": f"https://x/?code={REDACTED}"}


def test_a_record_keeps_the_beginning_of_a_long_body() -> None:
    request = exchange()
    request.body, request.body_length = b"a" * (BODY_BYTES_MAX + 1), BODY_BYTES_MAX + 1
    record = trail_record_of(request)
    assert record.body == "a" * BODY_BYTES_MAX
    assert record.body_length == BODY_BYTES_MAX + 1


def test_a_record_holds_nothing_that_the_database_refuses() -> None:
    request = exchange(headers=[(b"user-agent", b"caf\xe9"), (b"user-agent", b"two")])
    request.body = b"\x00\xff\xed\xa0\x80"
    record = trail_record_of(request)
    assert "\x00" not in record.body
    assert record.body.encode("utf-8")
    assert json.loads(record.headers_json) == {"user-agent": "café, two", "x-request-id": request.correlation_id}


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1"),
        ("10.0.0.1", "nonsense, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("fd00::1", "2001:db8::1", "2001:db8::1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("", "198.51.100.1", ""),
    ],
)
def test_only_a_trusted_proxy_may_say_who_the_client_is(peer: str, forwarded_for: str | None, expected: str) -> None:
    assert client_ip(peer, forwarded_for, OUR_PROXIES) == expected


def test_without_trusted_proxies_the_socket_is_the_client() -> None:
    assert client_ip("10.0.0.1", "198.51.100.1", ()) == "10.0.0.1"


def test_the_answered_request_id_is_stored_whole_however_long_the_other_headers_are() -> None:
    request_id = "r" * 128
    stored = headers_json(dict.fromkeys(HEADERS_KEPT, "x" * 256), request_id)
    assert json.loads(stored)["x-request-id"] == request_id
    assert len(stored) <= 2048
