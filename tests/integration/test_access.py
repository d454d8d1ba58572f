"""API keys: who is served, what each route needs, and that a wallet outside the prefixes looks like an unknown one."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial

import pytest

from tests.support.api import RunningApi, head, post, running_api
from tests.support.database import connected, fetch_rows, fetch_value
from tests.support.raw_http import RawAnswer, raw_connection
from tests.support.waiting import eventually
from wallet.access import keyring
from wallet.access.limits import IN_FLIGHT_MAX, WRONG_KEYS
from wallet.access.principal import Access, Principal, RateLimit, Scope
from wallet.access.store import NewKey, create_key, list_keys, revoke_key, rotate_key
from wallet.access.tokens import KeyId, Token, new_token
from wallet.api.app import ROUTES
from wallet.api.contract.route import Route
from wallet.api.routes.pages import SWAGGER_ROUTES
from wallet.api.services import Executes
from wallet.domain.commands import Command
from wallet.ledger.requests import Answer, BulkAnswer
from wallet.trail.records import TrailRecord

EVERY_SCOPE = tuple(Scope)
ACTOR = "test"
DEPOSIT = '{"amount": "5.00", "requestId": "%s"}'
UNAUTHENTICATED, FORBIDDEN = (401, "unauthenticated"), (403, "forbidden")


async def new_key(database_url: str, *scopes: Scope, **details: object) -> Token:
    new = NewKey(name="test", scopes=scopes or EVERY_SCOPE, **details)  # type: ignore[arg-type]
    async with connected(database_url) as connection:
        return await create_key(connection, new, actor=ACTOR)


def bearer(token: Token | str) -> str:
    return f"Authorization: Bearer {token if isinstance(token, str) else token.text}"


@asynccontextmanager
async def api_with_key(database_url: str, *scopes: Scope, **details: object) -> AsyncIterator[tuple[RunningApi, Token]]:
    """Yields an api that knows a key from its start."""
    token = await new_key(database_url, *scopes, **details)
    async with running_api(database_url) as api:
        yield api, token


def result(answer: RawAnswer) -> tuple[int, str]:
    return answer.status, "" if answer.status < 400 else answer.code


async def call(api: RunningApi, route: Route, *headers: str, wallet_id: str = "shop:1") -> RawAnswer:
    path = route.path.replace("{id}", wallet_id).replace("{name}", "swagger-ui.css")
    if route.method == "GET":
        return await api.get(path, *headers)
    return await api.post(path, _body_of(route, wallet_id), *headers)


def _body_of(route: Route, wallet_id: str) -> str:
    if route.has_bulk_body:
        operations = [{"type": "deposit", "walletId": wallet_id, "requestId": "bulk", "amount": "1"}]
        return json.dumps({"mode": "independent", "operations": operations})
    body = {"amount": "1.00", "requestId": route.operation_id}
    return json.dumps(body | ({"toWalletId": "shop:2"} if route.path.endswith("/transfer") else {}))


@pytest.fixture(params=[*ROUTES, *SWAGGER_ROUTES], ids=lambda route: f"{route.method} {route.path}")
def route(request: pytest.FixtureRequest) -> Route:
    chosen = request.param
    assert isinstance(chosen, Route)
    return chosen


async def test_each_route_serves_whom_its_declaration_says(database_url: str, route: Route) -> None:
    expired = await new_key(database_url, lifetime=timedelta(microseconds=1))
    revoked = await new_key(database_url)
    async with connected(database_url) as connection:
        await revoke_key(connection, revoked.key_id, actor=ACTOR)
    others = tuple(scope for scope in Scope if scope is not route.access)
    lacking = await new_key(database_url, *others)
    bound = await new_key(database_url, prefixes=("bank:",))
    async with api_with_key(database_url) as (api, valid):
        assert (await api.post("/wallet/shop:1/deposit", DEPOSIT % "first", bearer(valid))).status == 201
        for header in (
            (),
            ("Authorization: Basic dXNlcjpwYXNz",),
            ("Authorization: Bearer",),
            (bearer("wlt_live_nonsense"),),
            (bearer(new_token(is_test=False)),),
            (bearer(expired),),
            (bearer(revoked),),
        ):
            answer = await call(api, route, *header)
            if route.access is Access.PUBLIC:
                assert answer.status < 400, header
            else:
                assert result(answer) == UNAUTHENTICATED, header
                assert answer.headers["www-authenticate"].startswith("Bearer")
        wanted = FORBIDDEN if isinstance(route.access, Scope) else (200, "")
        if route.access is not Access.PUBLIC:
            answer = await call(api, route, bearer(lacking))
            assert result(answer) == wanted
            assert wanted != FORBIDDEN or f"`{route.access.value}`" in answer.json["detail"]
            foreign = await call(api, route, bearer(bound))
            unknown = await call(api, route, bearer(bound), wallet_id="shop:none")
            if route.access is Scope.OPERATE:
                assert result(foreign) == FORBIDDEN
            else:
                assert foreign.status == unknown.status
                assert foreign.body.replace(b"shop:1", b"shop:none") == unknown.body
        assert (await call(api, route, bearer(valid))).status < 400


async def test_a_wallet_outside_the_prefixes_is_answered_as_one_that_does_not_exist_and_nothing_is_stored(
    database_url: str,
) -> None:
    async with api_with_key(database_url) as (api, owner):
        for wallet_id in ("bank:1", "shop:1"):
            assert (await api.post(f"/wallet/{wallet_id}/deposit", DEPOSIT % "d", bearer(owner))).status == 201
        shop = bearer(await new_key(database_url, prefixes=("shop:", "stall:")))
        await eventually(partial(_is_served, api, shop))
        before = await fetch_value(database_url, "select count(*) from operations")
        balance = await api.get("/wallet/bank:1", shop)
        assert balance.json == {"walletId": "bank:1", "balance": "0.0000", "exists": False}
        assert (await api.get("/wallet/bank:1/history", shop)).json == []
        own = (await api.get("/wallet/shop:none/stats", shop)).json
        foreign = (await api.get("/wallet/bank:1/stats", shop)).json
        assert foreign | {"asOf": None} == own | {"asOf": None, "walletId": "bank:1"}
        for kind in ("deposit", "withdraw", "transfer"):
            receiver = {"toWalletId": "shop:1"} if kind == "transfer" else {}
            body = {"amount": "1", "requestId": "r"} | receiver
            refused = await api.post(f"/wallet/bank:1/{kind}", json.dumps(body), shop)
            assert result(refused) == (404, "wallet_not_found"), kind
            assert refused.json["requestId"] == "r"
        unknown = await api.post("/wallet/shop:none/withdraw", '{"amount": "1", "requestId": "r"}', shop)
        foreign_withdraw = await api.post("/wallet/bank:1/withdraw", '{"amount": "1", "requestId": "r"}', shop)
        assert unknown.body == foreign_withdraw.body.replace(b"bank:1", b"shop:none")
        assert await fetch_value(database_url, "select count(*) from operations") == before + 1, "only shop:none's"
        assert (await api.get("/wallet/bank:1", bearer(owner))).json["balance"] == "5.0000"


async def _is_served(api: RunningApi, header: str) -> bool:
    return (await api.get("/wallet/x", header)).status == 200


async def test_in_bulk_a_foreign_wallet_and_a_missing_scope_refuse_their_operation_only(database_url: str) -> None:
    key = bearer(await new_key(database_url, Scope.DEPOSIT, prefixes=("shop:",)))
    operations = [
        {"type": "deposit", "walletId": "shop:1", "requestId": "1", "amount": "5"},
        {"type": "deposit", "walletId": "bank:1", "requestId": "2", "amount": "5"},
        {"type": "withdraw", "walletId": "shop:1", "requestId": "3", "amount": "1"},
        {"type": "deposit", "walletId": "shop:1", "requestId": "4", "amount": "-1"},
    ]
    async with running_api(database_url) as api:
        mixed = await api.post("/operations", json.dumps({"mode": "independent", "operations": operations}), key)
        results = mixed.json["results"]
        assert [each["status"] for each in results] == [201, 404, 403, 400]
        assert [each["body"].get("code") for each in results[1:3]] == ["wallet_not_found", "forbidden"]
        for position, wanted in ((1, (404, "wallet_not_found")), (2, (403, "forbidden"))):
            atomic = [{**operations[0], "requestId": "a1"}, operations[position]]
            refused = await api.post("/operations", json.dumps({"mode": "atomic", "operations": atomic}), key)
            assert result(refused) == wanted
            assert refused.json["index"] == 1
    # The independent request and the atomic one with a foreign wallet; no row for the one without the scope.
    assert await fetch_value(database_url, "select array_agg(status order by status) from api_audit") == [200, 404]
    assert [tuple(row) for row in await fetch_rows(database_url, "select wallet_id, request_id from operations")] == [
        ("shop:1", "1")
    ]


async def test_what_a_key_may_not_read_is_null_in_answers_replays_and_histories(database_url: str) -> None:
    sender = bearer(await new_key(database_url, prefixes=("shop:",)))
    receiver = bearer(await new_key(database_url, Scope.READ, prefixes=("bank:",)))
    all_but_risk = bearer(await new_key(database_url, *(set(Scope) - {Scope.RISK})))
    transfer = '{"amount": "2", "toWalletId": "bank:1", "requestId": "t"}'
    async with running_api(database_url) as api:
        await api.post("/wallet/shop:1/deposit", DEPOSIT % "d", sender)
        first = await api.post("/wallet/shop:1/transfer", transfer, sender)
        again = await api.post("/wallet/shop:1/transfer", transfer, sender)
        whole = await api.post("/wallet/shop:1/transfer", transfer, all_but_risk)
        assert (first.status, again.headers["idempotency-replayed"]) == (201, "true")
        assert first.body == again.body
        assert first.json == whole.json | {"toBalance": None}
        assert (first.json["fromBalance"], whole.json["toBalance"]) == ("3.0000", "2.0000")
        operation = {"type": "transfer", "walletId": "shop:1", "requestId": "t", "amount": "2", "toWalletId": "bank:1"}
        bulk = await api.post("/operations", json.dumps({"mode": "independent", "operations": [operation]}), sender)
        assert bulk.json["results"][0]["body"] == first.json
        received = (await api.get("/wallet/bank:1/history", receiver)).json
        assert {event["type"] for event in received} == {"TransferCredited", "WalletCreated"}
        assert {event["payload"]["requestId"] for event in received} == {None}
        seen = (await api.get("/wallet/bank:1/history", all_but_risk)).json
        assert {event["payload"]["requestId"] for event in seen} == {"t"}
        sent = (await api.get("/wallet/shop:1/history", sender)).json
        assert {event["payload"]["requestId"] for event in sent} == {"d", "t"}


async def test_without_a_key_in_the_database_loopback_is_served_under_its_own_names_only(database_url: str) -> None:
    async with running_api(database_url) as api:
        for name in ("localhost", "localhost:3000", "127.0.0.1", "[::1]", "[::1]:3000", "LocalHost"):
            assert (await _named(api, name)).status == 200, name
        for name in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "0.0.0.0", "[::2]"):
            assert result(await _named(api, name)) == FORBIDDEN, name
        key = await new_key(database_url)
        await eventually(partial(_is_refused, api))
        assert (await _named(api, "evil.example", bearer(key))).status == 200


async def _named(api: RunningApi, name: str, *headers: str) -> RawAnswer:
    request = head("GET", "/wallet/x", *headers).replace(b"Host: 127.0.0.1", f"Host: {name}".encode())
    return await api.send(request)


async def _is_refused(api: RunningApi, *headers: str) -> bool:
    return (await api.get("/wallet/x", *headers)).status == 401


@pytest.mark.parametrize(
    ("auth", "listens_on", "status"),
    [("auto", "127.0.0.1", 200), ("auto", "0.0.0.0", 401), ("required", "127.0.0.1", 401), ("off", "0.0.0.0", 200)],
)
async def test_without_keys_the_mode_decides(database_url: str, auth: str, listens_on: str, status: int) -> None:
    async with running_api(database_url, auth=auth, listens_on=listens_on) as api:
        assert (await api.get("/wallet/x")).status == status


async def test_after_the_last_key_is_revoked_nobody_is_served_without_a_key(database_url: str) -> None:
    token = await new_key(database_url)
    async with connected(database_url) as connection, running_api(database_url) as api:
        assert (await api.get("/wallet/x", bearer(token))).status == 200
        await revoke_key(connection, token.key_id, actor=ACTOR)
        await eventually(partial(_is_refused, api, bearer(token)), within=2)
        assert await _is_refused(api)


async def test_a_rotated_key_is_valid_until_its_grace_ends_and_the_new_one_has_its_permissions(
    database_url: str,
) -> None:
    old = await new_key(database_url, Scope.READ, prefixes=("shop:",), limit=RateLimit(5.0, 10))
    async with connected(database_url) as connection, running_api(database_url) as api:
        _, fresh = await rotate_key(connection, old.key_id, grace=timedelta(hours=1), actor=ACTOR)
        first, second = await list_keys(connection)
        assert second.principal == Principal(fresh.key_id, frozenset({Scope.READ}), ("shop:",), RateLimit(5.0, 10))
        assert (second.replaces, first.state, second.state) == (old.key_id, "active", "active")
        await eventually(partial(_is_served, api, bearer(fresh)))
        assert await _is_served(api, bearer(old))
        await rotate_key(connection, KeyId(fresh.key_id), grace=timedelta(), actor=ACTOR)
        await eventually(partial(_is_refused, api, bearer(fresh)))


async def test_a_key_beyond_its_rate_is_told_when_to_send_again_and_leaves_no_trail(database_url: str) -> None:
    async with api_with_key(database_url, limit=RateLimit(0.001, 3)) as (api, token):
        answers = [await api.post("/wallet/a/deposit", DEPOSIT % number, bearer(token)) for number in range(4)]
        assert [answer.status for answer in answers] == [201, 201, 201, 429]
        assert answers[3].code == "rate_limited"
        assert int(answers[3].headers["retry-after"]) > 0
        assert answers[3].headers["ratelimit-limit"] == "3"
        assert result(await api.post("/wallet/a/deposit", DEPOSIT % "x")) == UNAUTHENTICATED
    assert await fetch_value(database_url, "select count(*) from api_audit") == 3


async def test_an_address_that_guesses_keys_is_slowed_down_and_a_valid_key_from_there_is_served(
    database_url: str,
) -> None:
    async with api_with_key(database_url) as (api, token):
        statuses = [(await api.get("/wallet/x", bearer(new_token(is_test=False)))).status for _ in range(40)]
        assert statuses[: WRONG_KEYS.burst] == [401] * WRONG_KEYS.burst
        assert 429 in statuses[WRONG_KEYS.burst :]
        assert (await api.get("/wallet/x", bearer(token))).status == 200


async def test_requests_in_flight_are_counted_down_when_they_end(database_url: str) -> None:
    async with api_with_key(database_url) as (api, token):
        for batch in range(3):
            answers = await asyncio.gather(*(api.get("/wallet/x", bearer(token)) for _ in range(IN_FLIGHT_MAX // 2)))
            assert {answer.status for answer in answers} == {200}, batch


async def test_the_secret_is_not_in_the_database(database_url: str) -> None:
    token = await new_key(database_url)
    text = str(await fetch_value(database_url, "select array_agg(k)::text from api_keys k"))
    assert token.key_id in text
    assert token.text not in text
    assert token.text.rpartition("_")[2] not in text


async def test_keys_that_cannot_be_read_for_long_are_not_trusted_and_the_refusal_speaks_of_this_attempt_only(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api_with_key(database_url) as (api, token):
        assert (await api.get("/wallet/x", bearer(token))).status == 200
        monkeypatch.setattr(keyring, "STALE_SECONDS", 0.0)
        for answer in (
            await api.get("/wallet/x", bearer(token)),
            await api.post("/wallet/x/deposit", DEPOSIT % "d", bearer(token)),
        ):
            assert result(answer) == (503, "unavailable")
            assert "This attempt had no effect." in answer.json["detail"]
        assert (await api.get("/healthz")).status == 200


class ClientsSeen:
    """The ledger, noting who the client of each bulk request is in the limits."""

    def __init__(self, inner: Executes, seen: list[str]) -> None:
        self._inner = inner
        self._seen = seen

    async def execute(self, command: Command, record: TrailRecord) -> Answer:
        return await self._inner.execute(command, record)

    async def execute_bulk(
        self, commands: Sequence[Command], record: TrailRecord, *, client: str, is_atomic: bool
    ) -> BulkAnswer:
        self._seen.append(client)
        return await self._inner.execute_bulk(commands, record, client=client, is_atomic=is_atomic)


async def test_bulk_requests_take_turns_by_key_and_without_keys_by_address(database_url: str) -> None:
    seen: list[str] = []
    operations = [{"type": "deposit", "walletId": "a", "requestId": "1", "amount": "1"}]
    body = json.dumps({"mode": "independent", "operations": operations})
    async with running_api(database_url, around_ledger=lambda ledger: ClientsSeen(ledger, seen)) as api:
        assert (await api.post("/operations", body)).status == 200
        keys = [await new_key(database_url) for _ in range(2)]
        for key in keys:
            await eventually(partial(_is_refused, api))
            await eventually(partial(_is_served, api, bearer(key)))
            assert (await api.post("/operations", body, bearer(key))).status == 200
    assert seen == ["127.0.0.1", *(f"key {key.key_id}" for key in keys)]


async def test_a_database_before_its_migration_has_no_key(empty_database_url: str) -> None:
    async with running_api(empty_database_url) as api:
        assert (await api.get("/metrics")).status == 200
    async with running_api(empty_database_url, auth="required") as api:
        assert result(await api.get("/metrics")) == UNAUTHENTICATED


async def test_a_process_that_has_seen_a_key_serves_nobody_without_one_whatever_becomes_of_its_database(
    database_url: str,
) -> None:
    async with api_with_key(database_url) as (api, token), connected(database_url) as connection:
        assert await _is_served(api, bearer(token))
        await connection.execute("drop table api_keys_version, api_keys")
        await eventually(partial(_is_refused, api, bearer(token)))
        assert await _is_refused(api)


async def test_a_bug_in_reading_the_keys_stops_the_api_and_is_raised(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve_until_stopped() -> None:
        async with api_with_key(database_url) as (api, token), connected(database_url) as connection:
            monkeypatch.setattr(keyring, "list_keys", lambda _connection: 1 / 0)
            await revoke_key(connection, token.key_id, actor=ACTOR)
            await eventually(api.stop.is_set)

    with pytest.raises(ZeroDivisionError):
        await serve_until_stopped()


@pytest.mark.parametrize("size", [10, 5_000, 300_000])
async def test_the_body_of_a_refused_request_is_never_read_as_the_next_request(database_url: str, size: int) -> None:
    smuggled = head("GET", "/healthz").decode() + "x" * size
    async with api_with_key(database_url) as (api, _), raw_connection(api.port) as connection:
        await connection.send(post("/wallet/a/deposit", smuggled))
        assert result(await connection.answer()) == UNAUTHENTICATED
        with suppress(OSError, asyncio.IncompleteReadError):  # After a long body the server closes the connection.
            await connection.send(head("GET", "/readyz"))
            assert "checks" in (await connection.answer()).json
