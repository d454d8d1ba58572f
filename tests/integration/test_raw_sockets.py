"""Everything a client can send wrong, over bare sockets: a 4xx with its reason, and nothing moves."""

import asyncio
import json
import time
from dataclasses import dataclass

import pytest

from tests.support.api import BODY_LIMITS, RunningApi, head, post, running_api
from tests.support.database import fetch_rows
from tests.support.raw_http import RawAnswer, ask, ask_stubbornly, raw_connection
from tests.support.waiting import eventually

DEPOSIT = "/wallet/alice/deposit"
TRANSFER = "/wallet/alice/transfer"
BULK = "/operations"
ALLOWED_BODY = '{"amount":"1","requestId":"key"}'
ALLOWED_OPERATION = '{"type":"deposit","walletId":"alice","amount":"1","requestId":"key"}'


@dataclass(frozen=True, slots=True)
class Wrong:
    """A request that must be refused, and with what."""

    request: bytes
    status: int
    code: str


def amount(spelling: str, *, code: str = "invalid_amount") -> Wrong:
    return Wrong(post(DEPOSIT, f'{{"amount":{spelling}}}'), 400, code)


def body(text: str | bytes, *, code: str = "invalid_request", target: str = DEPOSIT) -> Wrong:
    return Wrong(post(target, text), 400, code)


def path(target: str, *, status: int = 400, code: str = "invalid_request") -> Wrong:
    return Wrong(post(target, ALLOWED_BODY), status, code)


def keyed(*headers: str) -> Wrong:
    return Wrong(post(DEPOSIT, ALLOWED_BODY, *headers), 400, "invalid_request")


def typed(*headers: str) -> Wrong:
    lengths = f"Content-Length: {len(ALLOWED_BODY)}"
    return Wrong(head("POST", DEPOSIT, *headers, lengths) + ALLOWED_BODY.encode(), 415, "unsupported_media_type")


def bulk(operations: str | bytes, *headers: str, code: str = "invalid_request", mode: str = "atomic") -> Wrong:
    text = operations if isinstance(operations, bytes) else operations.encode()
    return Wrong(post(BULK, b'{"mode":"%b","operations":%b}' % (mode.encode(), text), *headers), 400, code)


AMOUNTS = [
    *(amount(text) for text in ("0", "0.0000", "-1", "-0.0001", "1e2", "10e-1", "1E400", "1.00000", "0.00001")),
    *(amount(text) for text in ("100000000000001", "9" * 5000, "0." + "1" * 5000, "null", "true", "[]", "{}", '""')),
    *(amount(f'"{text}"') for text in ("NaN", "Infinity", "-1", "+1", "1_000", " 12 ", "12\\n", "1,0", "0x1", "1e2")),
    *(
        amount(f'"{text}"')
        for text in ("\u0661\u0662", "\uff11", "\u00b2", "1\\u0000", "9" * 5000, "1.00000", "0", "01")
    ),
    *(amount(text, code="invalid_json") for text in ("NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "1_000")),
]
BODIES = [
    *(body(text, code="invalid_json") for text in ("", " ", "{", '{"amount":1}}', "{'amount':1}", '{"amount":1,}')),
    body('{"amount":1,"amount":1}', code="invalid_json"),
    body('{"amount":1,"requestId":"a","requestId":"b"}', code="invalid_json"),
    *(
        body(bytes(text), code="invalid_json")
        for text in (b"\xff\xfe", b'{"amount":"\xed\xa0\x80"}', b'\x00{"amount":1}')
    ),
    *(body(text * 10_000, code="invalid_json") for text in ("[", '{"a":', '[{"a":')),
    *(body(text) for text in ("[]", "1", '"amount"', "null", '{"amount":1,"extra":1}', '{"amount":1,"Amount":1}')),
    *(body(f'{{"amount":1,"requestId":{text}}}') for text in ("null", "1", "true", "[]", '""', '"a b"', '"a/b"')),
    *(
        body(f'{{"amount":1,"requestId":"{text}"}}')
        for text in ("a\\u0000", "-a", "a" * 129, "\u0430", "\\ud800", "a\\n")
    ),
    body('{"amount":1,"\\ud800":1}'),
    body('{"amount":1}', target=TRANSFER),
    *(
        body(f'{{"amount":1,"toWalletId":{text}}}', target=TRANSFER)
        for text in ("null", '""', '"a/b"', '"b\\u0000"', "7")
    ),
    body('{"amount":1,"toWalletId":"alice"}', target=TRANSFER, code="same_wallet"),
    body('{"requestId":"key"}', code="invalid_amount"),
]
PATHS = [
    *(path(f"/wallet/{text}/deposit") for text in ("", "a" * 129, "-a", ".", "..", "a%20b", "a+b", "a%2fb", "a%2Fb")),
    *(path(f"/wallet/{text}/deposit") for text in ("%00", "a%00", "%ff", "%c3%28", "%ed%a0%80", "%zz", "%", "a%0a")),
    *(
        path(f"/wallet/{text}/deposit")
        for text in ("%D0%B0lice", "%EF%BC%A1", "a;b=c", "a,b", "~a", "a%2e%2e%2f", "a'b")
    ),
    *(path(text, status=404, code="route_not_found") for text in ("/wallet", "/wallet/a/b/deposit", "/x%20y")),
    *(
        path(text, status=404, code="route_not_found")
        for text in ("/wallet/a/deposit//", "/wallet/a//deposit", "/WALLET/a")
    ),
    *(path(text, status=405, code="method_not_allowed") for text in ("/", "/wallet/a", "/healthz", "/openapi.json")),
]
HEADERS = [
    keyed("Idempotency-Key: other"),
    keyed('Idempotency-Key: "other"'),
    *(
        keyed(f"Idempotency-Key: {text}")
        for text in ("", '""', '"key', "a b", "key;a=1", "a" * 129, "caf\u00e9", "a/b")
    ),
    keyed("Idempotency-Key: key", "Idempotency-Key: key"),
    typed(),
    *(typed(f"Content-Type: {text}") for text in ("text/plain", "application/xml", "application/json2", "", "json")),
    typed("Content-Type: application/x-www-form-urlencoded"),
    typed("Content-Type: application/json; charset=utf-16"),
    typed("Content-Type: application/json, application/json"),
    typed("Content-Type: application/json", "Content-Encoding: gzip"),
]
BULKS = [
    *(body(text, target=BULK) for text in ("[]", "{}", '{"mode":"atomic"}', f'{{"operations":[{ALLOWED_OPERATION}]}}')),
    *(body(text, code="invalid_json", target=BULK) for text in ("", "{", "[" * 5_000, '{"mode":' * 5_000)),
    *(body(text, target=BULK) for text in ("[" * 500_000, '{"mode":' * 100_000)),
    *(bulk(text, mode=mode) for text in ("[]", "{}", "null", "1", '""') for mode in ("independent", "atomic")),
    *(bulk(f"[{ALLOWED_OPERATION}]", mode=mode) for mode in ("", "Atomic", "both", "atomic ", "\\u0000")),
    bulk(f"[{ALLOWED_OPERATION}" + f",{ALLOWED_OPERATION}" * 1000 + "]", mode="independent"),
    bulk("[" + "0," * 400_000 + "0]", mode="independent"),
    bulk(f"[{ALLOWED_OPERATION}],'extra':1", code="invalid_json"),
    bulk(f'[{ALLOWED_OPERATION}],"extra":1', mode="independent"),
    *(bulk(f"[{ALLOWED_OPERATION},{text}]") for text in ("null", "1", "[]", "{}", '"deposit"', ALLOWED_OPERATION)),
    *(
        bulk(f'[{{"type":"deposit","walletId":"a","requestId":"k","amount":{text}}}]', code=code)
        for code, texts in (
            ("invalid_amount", ("0", "-1", "1e2", "1.00000", '"NaN"', '"1_000"', "9" * 5000, "null", "[]")),
            ("invalid_json", ("NaN", "-Infinity", "01", "+1", "1.", '1,"amount":1')),
        )
        for text in texts
    ),
    bulk('[{"type":"deposit","walletId":"a","requestId":"\xff","amount":1}]'.encode("latin-1"), code="invalid_json"),
    *(
        bulk(f"[{ALLOWED_OPERATION}]", f"Idempotency-Key: {text}", mode=mode)
        for text in ("key", '"key"', "", "a b")
        for mode in ("independent", "atomic")
    ),
    Wrong(head("POST", BULK, "Content-Type: text/plain", "Content-Length: 2") + b"{}", 415, "unsupported_media_type"),
]
EVERYTHING = {"amounts": AMOUNTS, "bodies": BODIES, "paths": PATHS, "headers": HEADERS, "bulk requests": BULKS}


async def assert_nothing_moved(database_url: str) -> None:
    counts = await fetch_rows(
        database_url,
        "select (select count(*) from wallets) + (select count(*) from events) + (select count(*) from operations)"
        " + (select count(*) from transfers) + (select count(*) from journal) as rows",
    )
    assert counts[0]["rows"] == 0


async def recorded_statuses(database_url: str, count: int) -> list[int]:
    """The statuses of the audit trail rows, once there are as many as POSTs."""

    async def statuses() -> list[int]:
        found = [row["status"] for row in await fetch_rows(database_url, "select status from api_audit order by 1")]
        assert len(found) == count
        return found

    return await eventually(statuses)


@pytest.mark.parametrize("wrongs", EVERYTHING.values(), ids=EVERYTHING)
async def test_bad_input_is_refused_with_its_reason_and_moves_nothing(database_url: str, wrongs: list[Wrong]) -> None:
    async with running_api(database_url) as api:
        answers = [await api.send(wrong.request) for wrong in wrongs]
        statuses = await recorded_statuses(database_url, len(wrongs))
    found = [(answer.status, answer.code) for answer in answers]
    differing = [
        (wrong.request[:200], wrong.status, wrong.code, *seen)
        for wrong, seen in zip(wrongs, found, strict=True)
        if seen != (wrong.status, wrong.code)
    ]
    assert differing == []
    assert statuses == sorted(wrong.status for wrong in wrongs)
    await assert_nothing_moved(database_url)


async def test_a_refusal_points_at_what_is_wrong(database_url: str) -> None:
    async with running_api(database_url) as api:
        in_body = await api.post(TRANSFER, '{"amount":-1,"toWalletId":null,"x":1}')
        in_path = await api.get("/wallet/a%20b")
        in_query = await api.get("/wallet/a/history?limit=0&before=now")
        in_header = await api.post(DEPOSIT, ALLOWED_BODY, "Idempotency-Key: other")
        in_bulk = await api.post(BULK, "{}", "Idempotency-Key: other")
    assert [error["pointer"] for error in in_body.json["errors"]] == ["/amount", "/toWalletId", "/x"]
    assert [error["parameter"] for error in in_path.json["errors"]] == ["id"]
    assert [error["parameter"] for error in in_query.json["errors"]] == ["limit", "before"]
    assert [error["header"] for error in in_header.json["errors"]] == ["Idempotency-Key"]
    assert in_header.json["requestId"] == "key"
    assert [error["header"] for error in in_bulk.json["errors"]] == ["Idempotency-Key"]
    assert "requestId" not in in_bulk.json


@pytest.mark.parametrize(
    "garbage",
    [
        b"GARBAGE\r\n\r\n",
        b"POST /wallet/a\x00b/deposit HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /wallet/\xff/deposit HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /wallet/a b/deposit HTTP/1.1\r\nHost: localhost\r\n\r\n",
        head("POST", DEPOSIT, "Content-Length: -1"),
        head("POST", DEPOSIT, "Content-Length: 1", "Content-Length: 2") + b"{}",
        head("POST", DEPOSIT, "Content-Length: " + "9" * 50),
        b"POST /wallet/a/deposit HTTP/1.1\r\nHost: localhost\r\nX-Nul: a\x00b\r\n\r\n",
        head("POST", DEPOSIT, "X-Long: " + "a" * 100_000),
        head("POST", DEPOSIT, *(f"X-{number}: a" for number in range(1000))),
    ],
    ids=range(10),
)
async def test_what_is_not_http_is_refused_by_the_server_itself(database_url: str, garbage: bytes) -> None:
    async with running_api(database_url) as api:
        answer = await api.send(garbage)
        assert 400 <= answer.status < 500
        assert (await api.get("/healthz")).status == 200
    await assert_nothing_moved(database_url)


async def assert_too_large(api: RunningApi, request: bytes) -> RawAnswer:
    answer = await ask_stubbornly(api.port, request)
    assert (answer.status, answer.code) == (413, "body_too_large")
    assert answer.headers["connection"] == "close"
    return answer


async def test_a_body_that_is_too_large_gets_its_answer(database_url: str) -> None:
    chunk = b"8000\r\n" + b"a" * 0x8000 + b"\r\n"
    chunked = head("POST", DEPOSIT, "Content-Type: application/json", "Transfer-Encoding: chunked")
    async with running_api(database_url) as api:
        await assert_too_large(api, post(DEPOSIT, b" " * 65_537))
        await assert_too_large(api, post(DEPOSIT, b"a" * 1_000_000))
        await assert_too_large(api, chunked + chunk * 3 + b"0\r\n\r\n")
        await assert_too_large(api, chunked + chunk * 40)
        for _ in range(20):
            await assert_too_large(api, post(DEPOSIT, b"a" * 5_000_000))
        statuses = await recorded_statuses(database_url, 24)
    assert set(statuses) == {413}
    await assert_nothing_moved(database_url)


async def test_the_bulk_route_takes_a_body_of_a_mebibyte_and_no_more(database_url: str) -> None:
    allowed = f'{{"mode":"atomic","operations":[{ALLOWED_OPERATION}]}}'
    chunked = head("POST", BULK, "Content-Type: application/json", "Transfer-Encoding: chunked")
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    async with running_api(database_url) as api:
        await assert_too_large(api, post(BULK, b" " * 1_048_577))
        await assert_too_large(api, chunked + chunk * 32 + b"1\r\n \r\n0\r\n\r\n")
        for _ in range(5):
            await assert_too_large(api, post(BULK, b"a" * 10_000_000))
        await assert_too_large(api, head("POST", BULK, "Content-Length: 1048577", "Expect: 100-continue"))
        await assert_nothing_moved(database_url)
        answer = await api.post(BULK, allowed.ljust(1_048_576))
        assert answer.status == 200
        assert await recorded_statuses(database_url, 9) == [200, *[413] * 8]
    (row,) = await fetch_rows(
        database_url, "select octet_length(body) as kept, body_length from api_audit where status = 200"
    )
    assert (row["kept"], row["body_length"]) == (4096, 1_048_576)


async def test_the_largest_body_allowed_is_read(database_url: str) -> None:
    async with running_api(database_url) as api:
        answer = await api.post(DEPOSIT, '{"amount":1}'.ljust(65_536))
    assert answer.status == 201


async def test_a_client_that_asks_before_sending_is_refused_without_sending(database_url: str) -> None:
    async with running_api(database_url) as api:
        await assert_too_large(api, head("POST", DEPOSIT, "Content-Length: 70000", "Expect: 100-continue"))


@pytest.mark.parametrize("framing", ["Content-Length: 40", "Transfer-Encoding: chunked"])
async def test_a_body_that_never_ends_is_not_waited_for(database_url: str, framing: str) -> None:
    async with running_api(database_url) as api:
        beginning = b'{"amount":1' if framing.startswith("Content") else b'b\r\n{"amount":1\r\n'
        async with raw_connection(api.port) as connection:
            await connection.send(head("POST", DEPOSIT, "Content-Type: application/json", framing) + beginning)
            answer = await connection.answer()
            assert await connection.is_closed_by_server()
        assert await recorded_statuses(database_url, 1) == [408]
    assert (answer.status, answer.code) == (408, "request_timeout")
    await assert_nothing_moved(database_url)


async def test_a_body_that_never_begins_is_not_waited_for(database_url: str) -> None:
    async with running_api(database_url) as api:
        answer = await api.send(head("POST", DEPOSIT, "Content-Type: application/json", "Content-Length: 10"))
    assert (answer.status, answer.code) == (408, "request_timeout")


async def test_each_body_has_its_own_time_however_many_are_late(database_url: str) -> None:
    """They begin one after the other, beside others that end in time, and one begins when the last was given up."""
    late = head("POST", DEPOSIT, "Content-Type: application/json", "Content-Length: 10")

    async def refused() -> tuple[RawAnswer, float]:
        began = time.monotonic()
        return await api.send(late), time.monotonic() - began

    async with running_api(database_url) as api:
        begun = []
        for _ in range(5):
            begun.append(asyncio.create_task(refused()))
            assert (await api.post(DEPOSIT, '{"amount":1}')).status == 201
        answers = [*await asyncio.gather(*begun), await refused()]
        assert (await api.post(DEPOSIT, '{"amount":1}')).status == 201
    for answer, seconds in answers:
        assert answer.code == "request_timeout"
        assert BODY_LIMITS.body_seconds_max <= seconds < 3 * BODY_LIMITS.body_seconds_max


async def test_a_head_that_never_ends_is_not_waited_for(database_url: str) -> None:
    async with running_api(database_url) as api, raw_connection(api.port) as silent, raw_connection(api.port) as slow:
        await slow.send(b"POST /wallet/alice/deposit HTTP/1.1\r\nHost: localhost\r\n")
        assert await slow.is_closed_by_server()
        assert await silent.is_closed_by_server()


async def test_a_body_that_breaks_its_framing_is_refused(database_url: str) -> None:
    chunked = head("POST", DEPOSIT, "Content-Type: application/json", "Transfer-Encoding: chunked")
    async with running_api(database_url) as api:
        answer = await ask(api.port, chunked + b'ZZ\r\n{"amount":1}\r\n0\r\n\r\n')
        assert (answer.status, answer.code) == (400, "incomplete_body")
        assert await recorded_statuses(database_url, 1) == [400]
    await assert_nothing_moved(database_url)


async def test_a_client_that_vanishes_in_the_middle_of_its_body_moves_nothing(database_url: str) -> None:
    async with running_api(database_url) as api:
        async with raw_connection(api.port) as connection:
            await connection.send(head("POST", DEPOSIT, "Content-Length: 40") + b'{"amount":1')
            connection.abort()
        assert await recorded_statuses(database_url, 1) == [400]
    await assert_nothing_moved(database_url)


async def test_two_lengths_of_one_body_cannot_smuggle_a_second_request(database_url: str) -> None:
    smuggled = post("/wallet/mallory/deposit", '{"amount":1}')
    request = head("POST", DEPOSIT, "Content-Type: application/json", "Content-Length: 5", "Transfer-Encoding: chunked")
    async with running_api(database_url) as api, raw_connection(api.port) as connection:
        await connection.send(request + b"0\r\n\r\n" + smuggled)
        answer = await connection.answer()
        assert (answer.status, answer.code) == (400, "invalid_json")
        assert await connection.is_closed_by_server()
    await assert_nothing_moved(database_url)


async def test_an_escaped_id_is_the_id_it_spells(database_url: str) -> None:
    async with running_api(database_url) as api:
        await api.post("/wallet/user%40example.com/deposit", '{"amount":1}')
        answer = await api.get("/wallet/user@example.com")
    assert json.loads(answer.body) == {"walletId": "user@example.com", "balance": "1.0000", "exists": True}
