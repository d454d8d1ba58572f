"""The audit trail keeps requests without their secrets, and knows whose they are."""

from ipaddress import ip_network

import pytest

from wallet.api.audit import BODY_BYTES_MAX, REDACTED, audit_record_of, redact_headers, redact_url
from wallet.api.client_ip import client_ip
from wallet.api.exchange import Exchange

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


@pytest.mark.parametrize(
    "name",
    ["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token",
     "x-amz-security-token", "x-csrf-token", "x-session-id", "client-secret", "x-hub-signature-256"],
)  # fmt: skip
def test_headers_that_carry_secrets_lose_them(name: str) -> None:
    assert redact_headers({name: "hunter2"}) == {name: REDACTED}


@pytest.mark.parametrize("name", ["host", "user-agent", "content-type", "idempotency-key", "x-request-id", "accept"])
def test_other_headers_are_kept(name: str) -> None:
    assert redact_headers({name: "value"}) == {name: "value"}


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
    assert redact_headers({"referer": "https://x/?code=s3cret"}) == {"referer": f"https://x/?code={REDACTED}"}


def test_a_record_keeps_the_beginning_of_a_long_body() -> None:
    request = exchange()
    request.body, request.body_length = b"a" * (BODY_BYTES_MAX + 1), BODY_BYTES_MAX + 1
    record = audit_record_of(request)
    assert record.body == "a" * BODY_BYTES_MAX
    assert record.body_length == BODY_BYTES_MAX + 1


def test_a_record_holds_nothing_that_the_database_refuses() -> None:
    request = exchange(headers=[(b"x-name", b"caf\xe9"), (b"x-name", b"two")])
    request.body = b"\x00\xff\xed\xa0\x80"
    record = audit_record_of(request)
    assert "\x00" not in record.body
    assert record.body.encode("utf-8")
    assert record.headers_json == '{"x-name":"café, two"}'


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
