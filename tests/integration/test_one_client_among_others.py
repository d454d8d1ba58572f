"""What one client sends costs the others little: trail rows, metrics, large bodies, and what is logged of it."""

import asyncio
import json
import socket
import time
from contextlib import AsyncExitStack, ExitStack

import asyncpg
import httpx
import pytest

from tests.support.api import head, running_api
from tests.support.processes import Processes
from tests.support.raw_http import ask, connected
from tests.support.waiting import eventually
from tests.support.worker import fetch
from wallet.api.contract.bodies import VALUES_MAX, decode_object
from wallet.api.contract.problems import Refused
from wallet.api.edge.exchange import Exchange
from wallet.api.edge.incoming import BodyBudget, BodyLimits

KIB = 1024
FLOOD = 1_500
ROWS = "select count(*) from api_audit where client_ip = $1 and url like '/wallet/%'"
SIZES = "select max(length(headers::text) + length(body)), max(length(url)) from api_audit where status = 400"


async def test_a_flood_of_refused_posts_takes_no_row_of_another_client_and_little_room(
    database_url: str, processes: Processes
) -> None:
    api = processes.start_api(DATABASE_URL=database_url)
    large = {f"x-{number}": "h" * KIB for number in range(27)} | {"user-agent": "u" * KIB}

    async def send(client: httpx.AsyncClient, count: int) -> None:
        for _ in range(count):
            answer = await client.post(
                "/wallet/alice/deposit", content=b'{"amount":-1}' + b" " * 8 * KIB, headers=large
            )
            assert answer.status_code == 400

    def client_from(address: str) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(local_address=address)
        return httpx.AsyncClient(base_url=api.url, transport=transport, headers={"content-type": "application/json"})

    async with client_from("127.0.0.2") as hostile, client_from("127.0.0.1") as honest:
        flood = [asyncio.create_task(send(hostile, FLOOD // 10)) for _ in range(10)]
        await send(honest, 50)
        await asyncio.gather(*flood)

    async def honest_rows_are_there() -> bool:
        [(count,)] = await fetch(database_url, ROWS, "127.0.0.1")
        return bool(count == 50)

    await eventually(honest_rows_are_there, within=10)

    async def is_accounted_for() -> bool:
        [(count,)] = await fetch(database_url, ROWS, "127.0.0.2")
        assert count + api.metrics()["wallet_trail_rows_lost_total"] == FLOOD
        return True

    await eventually(is_accounted_for, within=10, every=0.5)
    [(stored, url)] = await fetch(database_url, SIZES)
    assert stored <= 2 * KIB + 200  # The database spells JSON with blanks.
    assert url <= 512


async def test_scrapes_and_reports_are_computed_once_a_second_for_all_who_ask(database_url: str) -> None:
    async with running_api(database_url) as api:
        rendered = 0
        render = api.metrics.render

        def counted() -> bytes:
            nonlocal rendered
            rendered += 1
            return render()

        api.metrics.render = counted  # type: ignore[method-assign]
        began = time.monotonic()
        answers = await asyncio.gather(*(api.get("/metrics") for _ in range(64)))
        assert {answer.status for answer in answers} == {200}
        assert rendered <= 1 + (time.monotonic() - began)


@pytest.mark.parametrize("raw", [b"[" + b"1," * (512 * KIB - 1) + b"1]", b'{"a":[' + b"[]," * (341 * KIB) + b"1]}"])
def test_a_body_of_a_million_values_is_refused_before_it_is_decoded(raw: bytes) -> None:
    began = time.process_time()
    with pytest.raises(Refused, match=f"more than {VALUES_MAX} values"):
        decode_object(raw)
    assert time.process_time() - began < 0.02


LARGE = head("POST", "/wallet/alice/deposit", "Content-Type: application/json", f"Content-Length: {60 * KIB}")


async def test_bodies_use_a_bounded_amount_of_memory_and_the_next_one_is_told_to_come_again(database_url: str) -> None:
    limits = BodyLimits(bodies_bytes_max=400 * KIB)
    async with running_api(database_url, body_limits=limits) as api:
        async with connected(api.port) as slow:
            await slow.send(LARGE + b" " * (60 * KIB - 1))

            async def is_refused() -> bool:
                answer = await api.send(LARGE + b" " * 60 * KIB)
                if answer.status != 503:
                    return False
                assert answer.json["code"] == "not_executed"
                assert "retry-after" in answer.headers
                return True

            await eventually(is_refused)
            chunked = head(
                "POST", "/wallet/alice/deposit", "Content-Type: application/json", "Transfer-Encoding: chunked"
            )
            answer = await api.send(chunked + f"{60 * KIB:x}\r\n".encode() + b" " * 60 * KIB + b"\r\n0\r\n\r\n")
            assert (answer.status, answer.json["code"]) == (503, "not_executed")
            assert (await api.post("/wallet/alice/deposit", '{"amount":1}')).status == 201
        # The first client went away in the middle of its body: its share is free again.

        async def has_room() -> bool:
            answer = await api.send(LARGE + b'{"amount":1}'.ljust(60 * KIB))
            return answer.status == 201

        await eventually(has_room)


async def test_bodies_that_are_declared_and_not_sent_take_no_room(database_url: str) -> None:
    limits = BodyLimits(bodies_bytes_max=400 * KIB, body_seconds_max=30.0)
    async with running_api(database_url, body_limits=limits) as api, AsyncExitStack() as stack:
        for _ in range(10):
            await (await stack.enter_async_context(connected(api.port))).send(LARGE + b"{")
        assert (await api.send(LARGE + b'{"amount":1}'.ljust(60 * KIB))).status == 201


def test_one_client_uses_at_most_a_quarter_of_the_memory_for_bodies() -> None:
    budget = BodyBudget(400 * KIB)
    for number in range(3):
        budget.reserve(exchange_from(f"127.0.0.{number + 2}"), 100 * KIB)
        with pytest.raises(Refused, match="one client"):
            budget.reserve(exchange_from(f"127.0.0.{number + 2}"), 1)
    honest = exchange_from("127.0.0.1")
    budget.reserve(honest, 60 * KIB)
    budget.reserve(exchange_from("127.0.0.8"), 40 * KIB)
    with pytest.raises(Refused, match="other requests"):
        budget.reserve(exchange_from("127.0.0.9"), 1)
    budget.release(honest)
    budget.reserve(exchange_from("127.0.0.9"), 60 * KIB)


def exchange_from(address: str) -> Exchange:
    return Exchange({"method": "POST", "path": "/", "query_string": b"", "headers": [], "client": (address, 1)})


async def test_each_request_has_one_line_in_the_log_and_its_id_in_the_trail(
    database_url: str, processes: Processes
) -> None:
    api = processes.start_api(DATABASE_URL=database_url)
    quiet = processes.start_api(DATABASE_URL=database_url, LOG_REQUESTS="false")
    async with httpx.AsyncClient(trust_env=False) as client:
        made = await client.post(f"{api.url}/wallet/alice/deposit", json={"amount": 1})
        named = await client.post(
            f"{api.url}/wallet/alice/deposit", json={"amount": 1}, headers={"x-request-id": "our-own-id"}
        )
        await client.post(f"{quiet.url}/wallet/alice/deposit", json={"amount": 1})
    ids = {made.headers["x-request-id"], "our-own-id"}
    assert named.headers["x-request-id"] == "our-own-id"

    def lines() -> list[dict[str, object]]:
        events = [json.loads(line) for line in api.logs().splitlines()]
        return [event for event in events if event["event"] == "request" and event["method"] == "POST"]

    await eventually(lambda: {line["correlation_id"] for line in lines()} == ids)
    assert all(line["level"] == "info" and line["path"] == "/wallet/alice/deposit" for line in lines())
    connection = await asyncpg.connect(database_url)
    stored = await connection.fetch("select headers->>'x-request-id' as id from api_audit where status < 300")
    await connection.close()
    assert ids <= {row["id"] for row in stored}
    assert '"request"' not in quiet.logs()


async def test_slow_readers_of_large_files_do_not_delay_another_client(database_url: str, processes: Processes) -> None:
    api = processes.start_api(DATABASE_URL=database_url)
    with ExitStack() as stack:
        for _ in range(200):
            reader = socket.create_connection(("127.0.0.1", api.port), timeout=5, source_address=("127.0.0.2", 0))
            stack.enter_context(reader).sendall(head("GET", "/docs/assets/swagger-ui-bundle.js"))
        for _ in range(20):
            async with asyncio.timeout(1.0):
                assert (await ask(api.port, head("GET", "/healthz"))).status == 200
