"""The routes over HTTP on a real database: the shapes that clients of the reference system know, and safe retries."""

import asyncio
import re
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.api import RunningApi, head, running_api
from tests.support.database import execute, fetch_rows
from tests.support.raw_http import RawAnswer
from wallet.api.app import ROUTES
from wallet.api.contract.openapi import document

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NO_NUMBER = "must be a plain decimal number such as 100 or 100.25: digits, and after a point at most 4 decimals"
NEXT = re.compile(r'<(?P<target>/wallet/alice/history\?limit=\d+&cursor=[A-Za-z0-9_-]+)>; rel="next"')


async def post_deposit(api: RunningApi, wallet_id: str, amount: str, *headers: str) -> RawAnswer:
    return await api.post(f"/wallet/{wallet_id}/deposit", f'{{"amount":{amount}}}', *headers)


async def post_transfer(api: RunningApi, body: str, *headers: str) -> RawAnswer:
    return await api.post("/wallet/alice/transfer", body, *headers)


async def test_money_moves_as_the_reference_system_says(database_url: str) -> None:
    async with running_api(database_url) as api:
        made = await api.post("/wallet/alice/deposit", '{"amount":100.5,"requestId":"d1"}')
        taken = await api.post("/wallet/alice/withdraw", '{"amount":"0.5","requestId":"w1"}')
        moved = await post_transfer(api, '{"toWalletId":"bob","amount":25,"requestId":"t1"}')
    assert (made.status, taken.status, moved.status) == (201, 201, 201)
    assert made.body == b'{"walletId":"alice","balance":"100.5000","requestId":"d1","created":true}'
    assert taken.body == b'{"walletId":"alice","balance":"100.0000","requestId":"w1","created":false}'
    transfer_id = moved.json["transferId"]
    assert moved.json == {
        "transferId": transfer_id,
        "fromWalletId": "alice",
        "toWalletId": "bob",
        "amount": "25.0000",
        "status": "completed",
        "requestId": "t1",
        "fromBalance": "75.0000",
        "toBalance": "25.0000",
    }


@pytest.mark.parametrize(
    ("operation", "body", "status", "code"),
    [
        ("withdraw", '{"amount":6}', 400, "insufficient_funds"),
        ("transfer", '{"amount":6,"toWalletId":"bob"}', 400, "insufficient_funds"),
        ("transfer", '{"amount":1,"toWalletId":"alice"}', 400, "same_wallet"),
    ],
)
async def test_a_refusal_says_why(database_url: str, operation: str, body: str, status: int, code: str) -> None:
    async with running_api(database_url) as api:
        await post_deposit(api, "alice", "5")
        refused = await api.post(f"/wallet/alice/{operation}", body)
        balance = await api.get("/wallet/alice")
    assert (refused.status, refused.code) == (status, code)
    assert balance.json["balance"] == "5.0000"


@pytest.mark.parametrize(
    ("amount", "detail"),
    [
        ("99999999999999999", "amount must be at most 100000000000000 (10^14)."),
        ("1.00001", "amount must be given with at most 4 decimals, not 5."),
        ("-1", "amount must be greater than 0."),
        ("1e3", "amount must be given without an exponent, such as 100 or 100.25."),
        ('"abc"', f"amount {NO_NUMBER}."),
        ("null", 'amount must be a JSON number or a decimal string, such as 100 or "100.25".'),
    ],
)  # fmt: skip
async def test_an_amount_that_is_refused_names_its_limit_on_single_and_bulk_routes(
    database_url: str, amount: str, detail: str
) -> None:
    operation = f'{{"type":"withdraw","walletId":"alice","amount":{amount},"requestId":"k"}}'
    bulk = f'"operations":[{operation}]}}'
    async with running_api(database_url) as api:
        single = await api.post("/wallet/alice/deposit", f'{{"amount":{amount}}}')
        independent = await api.post("/operations", f'{{"mode":"independent",{bulk}')
        atomic = await api.post("/operations", f'{{"mode":"atomic",{bulk}')
    assert (single.status, single.code, single.json["detail"]) == (400, "invalid_amount", detail)
    (result,) = independent.json["results"]
    assert (result["status"], result["body"]["code"]) == (400, "invalid_amount")
    assert result["body"]["detail"] == result["body"]["message"] == detail
    assert result["body"]["statusCode"] == 400
    assert (atomic.status, atomic.json["detail"]) == (400, f"operations/0/{detail}")


@pytest.mark.parametrize(
    ("operation", "body"), [("withdraw", '{"amount":1}'), ("transfer", '{"amount":1,"toWalletId":"b"}')]
)
async def test_a_wallet_that_does_not_exist_is_not_found(database_url: str, operation: str, body: str) -> None:
    async with running_api(database_url) as api:
        refused = await api.post(f"/wallet/nobody/{operation}", body)
        wallet = await api.get("/wallet/nobody")
        history = await api.get("/wallet/nobody/history")
        stats = await api.get("/wallet/nobody/stats")
    assert (refused.status, refused.code) == (404, "wallet_not_found")
    assert wallet.body == b'{"walletId":"nobody","balance":"0.0000","exists":false}'
    assert history.body == b"[]"
    assert stats.json == {
        "walletId": "nobody",
        "totalDeposited": "0.0000",
        "totalWithdrawn": "0.0000",
        "totalTransferredOut": "0.0000",
        "totalTransferredIn": "0.0000",
        "lastActivityAt": None,
        "suspicious": False,
        "suspiciousReason": None,
        "createdAt": None,
        "updatedAt": None,
        "asOf": None,
    }


async def test_a_retry_gets_the_first_answer_byte_for_byte(database_url: str) -> None:
    async with running_api(database_url) as api:
        first = await api.post("/wallet/alice/deposit", '{"amount":"1.50","requestId":"k"}')
        again = await api.post("/wallet/alice/deposit", '{"requestId":"k","amount":1.5}')
        by_header = await post_deposit(api, "alice", "1.5000", 'Idempotency-Key: "k"')
        refused = await api.post("/wallet/alice/withdraw", '{"amount":9,"requestId":"w"}')
        await post_deposit(api, "alice", "100")
        refused_again = await api.post("/wallet/alice/withdraw", '{"amount":9,"requestId":"w"}')
    assert (first.status, first.body) == (again.status, again.body) == (by_header.status, by_header.body)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == by_header.headers["idempotency-replayed"] == "true"
    assert (refused.status, refused.body) == (refused_again.status, refused_again.body)
    assert refused_again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("deposit", '{"amount":2,"requestId":"k"}'),
        ("withdraw", '{"amount":1,"requestId":"k"}'),
        ("transfer", '{"amount":1,"requestId":"k","toWalletId":"bob"}'),
    ],
)
async def test_a_key_of_another_request_is_refused(database_url: str, operation: str, body: str) -> None:
    async with running_api(database_url) as api:
        await api.post("/wallet/alice/deposit", '{"amount":1,"requestId":"k"}')
        reused = await api.post(f"/wallet/alice/{operation}", body)
        balance = await api.get("/wallet/alice")
    assert (reused.status, reused.code) == (422, "idempotency_key_reused")
    assert reused.json["requestId"] == "k"
    assert balance.json["balance"] == "1.0000"


async def test_a_request_without_a_key_is_answered_with_the_one_it_got(database_url: str) -> None:
    async with running_api(database_url) as api:
        first = await post_deposit(api, "alice", "1")
        again = await post_deposit(api, "alice", "1", f"Idempotency-Key: {first.json['requestId']}")
        other = await post_deposit(api, "alice", "1")
    assert again.headers["idempotency-replayed"] == "true"
    assert other.json["balance"] == "2.0000"


async def test_a_history_is_newest_first_and_pages_without_a_gap(database_url: str) -> None:
    async with running_api(database_url) as api:
        await asyncio.gather(*(post_deposit(api, "alice", str(number)) for number in range(1, 12)))
        whole = (await api.get("/wallet/alice/history?limit=999")).json
        paged: list[Any] = []
        target = "/wallet/alice/history?limit=5"
        while target:
            page = await api.get(target)
            paged += page.json
            # What arrives meanwhile is newer than the cursor, so it neither shows nor shifts the pages.
            await post_deposit(api, "alice", "1")
            match = NEXT.fullmatch(page.headers.get("link", ""))
            target = match["target"] if match else ""
    assert [item["type"] for item in whole] == ["FundsDeposited"] * 11 + ["WalletCreated"]
    assert paged == whole
    balances = [float(item["payload"]["newBalance"]) for item in whole]
    assert balances == sorted(balances, reverse=True)
    assert set(whole[0]) == {"id", "walletId", "transferId", "type", "occurredAt", "payload"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", whole[0]["occurredAt"])


async def test_before_is_exact_to_the_microsecond(database_url: str) -> None:
    async with running_api(database_url) as api:
        for number in range(1, 5):
            await post_deposit(api, "alice", str(number))
        whole = (await api.get("/wallet/alice/history")).json
        second = datetime.fromisoformat(whole[1]["occurredAt"])
        at = second.strftime("%Y-%m-%dT%H:%M:%S.%f")
        later = (second + timedelta(microseconds=1)).strftime("%Y-%m-%dT%H:%M:%S.%f")
        exclusive = (await api.get(f"/wallet/alice/history?before={at}Z")).json
        inclusive = (await api.get(f"/wallet/alice/history?before={later}Z")).json
        nanoseconds = (await api.get(f"/wallet/alice/history?before={at}001Z")).json
        first_page = await api.get(f"/wallet/alice/history?before={at}%2B00:00&limit=1")
        match = NEXT.fullmatch(first_page.headers["link"])
        assert match is not None
        second_page = await api.get(match["target"])
    assert exclusive == whole[2:]
    assert inclusive == nanoseconds == whole[1:]
    assert first_page.json + second_page.json == whole[2:4]


async def test_a_row_that_was_only_locked_is_no_wallet(database_url: str) -> None:
    await execute(
        database_url,
        "insert into wallets (bucket, wallet_id, currency, balance, version) "
        "values (wallet_bucket('ghost'), 'ghost', 'USD', 0, 0)",
    )
    async with running_api(database_url) as api:
        assert (await api.get("/wallet/ghost")).json == {"walletId": "ghost", "balance": "0.0000", "exists": False}


async def test_the_callers_ids_come_back(database_url: str) -> None:
    async with running_api(database_url) as api:
        kept = await api.get("/wallet/a", "X-Request-Id: order-4711", f"traceparent: {TRACEPARENT}")
        made = await api.get("/wallet/a", "X-Request-Id: not good", "traceparent: nonsense")
        refused = await api.get("/nowhere", "X-Request-Id: order-4711")
    assert (kept.headers["x-request-id"], kept.headers["traceparent"]) == ("order-4711", TRACEPARENT)
    assert made.headers["x-request-id"] in made.headers["traceparent"]
    assert refused.headers["x-request-id"] == "order-4711"


async def test_the_audit_row_of_a_request_holds_no_secret(database_url: str) -> None:
    async with running_api(database_url, trusted_proxies="127.0.0.0/8") as api:
        headers = (
            "Authorization: Bearer s3cret",
            "Cookie: a=s3cret",
            "X-Api-Key: s3cret",
            "X-Forwarded-For: 192.0.2.7",
        )
        await api.post("/wallet/alice/deposit", '{"amount":1,"requestId":"k"}', *headers)
        await api.post("/wallet/alice/deposit?token=s3cret&note=x", '{"amount":1,"requestId":"k"}', *headers)
    rows = await fetch_rows(database_url, "select a.*, a::text as everything from api_audit a order by status")
    assert [row["status"] for row in rows] == [201, 400]
    for row in rows:
        assert "s3cret" not in row["everything"]
        assert row["client_ip"] == "192.0.2.7"
    assert (rows[0]["wallet_id"], rows[0]["request_id"]) == ("alice", "k")
    assert rows[1]["url"] == "/wallet/alice/deposit?token=[redacted]&note=x"


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("GET", "/wallet/alice/deposit", {"POST", "OPTIONS"}),
        ("PUT", "/wallet/alice/transfer", {"POST", "OPTIONS"}),
        ("POST", "/wallet/alice/history", {"GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/wallet/alice", {"GET", "HEAD", "OPTIONS"}),
        ("TRACE", "/wallet/alice", {"GET", "HEAD", "OPTIONS"}),
        ("BREW", "/wallet/alice", {"GET", "HEAD", "OPTIONS"}),
        ("BREW", "/wallet/alice/withdraw", {"POST", "OPTIONS"}),
    ],
)
async def test_a_method_that_a_route_does_not_take_is_named_with_those_it_does(
    database_url: str, method: str, target: str, allowed: set[str]
) -> None:
    async with running_api(database_url) as api:
        answer = await api.send(head(method, target, "Content-Length: 0"))
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == allowed


async def test_head_and_options_answer_without_a_body(database_url: str) -> None:
    async with running_api(database_url) as api:
        whole = await api.get("/wallet/alice")
        for_head = await api.send(head("HEAD", "/wallet/alice"))
        refused = await api.send(head("HEAD", "/nowhere"))
        options = await api.send(head("OPTIONS", "/wallet/alice/deposit"))
        old = await api.send(b"GET /wallet/alice HTTP/1.0\r\n\r\n")
    assert (for_head.status, for_head.headers["content-length"]) == (200, str(len(whole.body)))
    assert refused.status == 404
    assert (options.status, options.headers["allow"]) == (204, "POST, OPTIONS")
    assert old.body == whole.body


async def test_the_document_and_its_pages_are_served(database_url: str) -> None:
    async with running_api(database_url) as api:
        assert (await api.get("/openapi.json")).json == document(ROUTES)
        for target in ("/docs", "/api"):
            page = await api.get(target)
            assert page.status == 200
            assert "script-src 'self'" in page.headers["content-security-policy"]
            assets = re.findall(rb'(?:src|href)="([^"]+)"', page.body)
            answers = [await api.get(asset.decode()) for asset in assets]
            assert {answer.status for answer in answers} == {200}
            assert len(assets) == 6
        missing = await api.get("/docs/assets/..%5cswagger.py")
        assert missing.code == "route_not_found"


async def test_without_swagger_the_document_remains(database_url: str) -> None:
    async with running_api(database_url, enable_swagger=False) as api:
        statuses = [
            (await api.get(target)).status for target in ("/docs", "/api", "/docs/assets/start.js", "/openapi.json")
        ]
    assert statuses == [404, 404, 404, 200]


async def test_metrics_count_requests_by_route_and_status(database_url: str) -> None:
    async with running_api(database_url) as api:
        for wallet_id in ("alice", "bob", "-wrong"):
            await post_deposit(api, wallet_id, "1")
        await api.get("/nowhere")
        metrics = (await api.get("/metrics")).body.decode()
    assert 'seconds_count{method="POST",route="/wallet/{id}/deposit",status="201"} 2.0' in metrics
    assert 'seconds_count{method="POST",route="/wallet/{id}/deposit",status="400"} 1.0' in metrics
    assert 'seconds_count{method="GET",route="unmatched",status="404"} 1.0' in metrics
    assert "wallet_trail_rows_lost_total 0.0" in metrics
    assert "wallet_ledger_queue_depth 0.0" in metrics
