"""What one client sends costs the others little: trail rows, metrics, large bodies, and what is logged of it."""

import asyncio
import json
import socket
import time
from contextlib import AsyncExitStack, ExitStack

import httpx
import pytest

from tests.support.api import head, running_api
from tests.support.database import connected, fetch_rows, fetch_value
from tests.support.processes import Processes
from tests.support.raw_http import ask, raw_connection
from tests.support.waiting import eventually
from wallet.api.contract.bodies import VALUES_MAX, decode_object
from wallet.api.contract.problems import Refused
from wallet.api.edge.exchange import Exchange
from wallet.api.edge.incoming import BodyBudget, BodyLimits
from wallet.trail.buffer import REFUSED_A_SECOND_MAX, REFUSED_BURST_MAX

pytestmark = pytest.mark.alone

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
        count = await fetch_value(database_url, ROWS, "127.0.0.1")
        return bool(count == 50)

    await eventually(honest_rows_are_there, within=10)

    async def is_accounted_for() -> bool:
        count = await fetch_value(database_url, ROWS, "127.0.0.2")
        assert count + api.metrics()["wallet_trail_rows_lost_total"] == FLOOD
        return True

    await eventually(is_accounted_for, within=10, every=0.5)
    [(stored, url)] = await fetch_rows(database_url, SIZES)
    assert stored <= 2 * KIB + 200  # The database spells JSON with blanks.
    assert url <= 512


async def test_a_flood_of_503s_takes_no_row_of_another_client_and_little_room(database_url: str) -> None:
    """Their bodies find no room, so they never reach the ledger."""
    limits = BodyLimits(bodies_bytes_max=50)
    hostile, honest = "X-Forwarded-For: 10.0.0.1", "X-Forwarded-For: 10.0.0.2"
    async with running_api(database_url, body_limits=limits, trusted_proxies="127.0.0.1") as api:
        path, body = "/wallet/alice/deposit", '{"amount":1,"requestId":"k"}'.ljust(100)
        for _ in range(5):
            answers = await asyncio.gather(
                *(api.post(path, body, hostile, f"user-agent: {'x' * 4000}") for _ in range(500))
            )
            assert {answer.status for answer in answers} == {503}
        assert (await api.post(path, body, honest)).status == 503
    rows = "select count(*) from api_audit where status = 503 and client_ip"
    from_honest = await fetch_value(database_url, f"{rows} = '10.0.0.2'")
    from_hostile = await fetch_value(database_url, f"{rows} = '10.0.0.1'")
    assert from_honest == 1
    assert from_hostile <= REFUSED_BURST_MAX + 60 * REFUSED_A_SECOND_MAX
    stored = await fetch_value(
        database_url, "select max(octet_length(headers::text) + octet_length(body)) from api_audit where status = 503"
    )
    assert stored <= 2 * KIB + 200


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


@pytest.mark.parametrize(
    "raw",
    [
        b"[" + b"1," * (512 * KIB - 1) + b"1]",
        b'{"a":[' + b"[]," * (341 * KIB) + b"1]}",
        (b'{"a":' * 300 + b"1" + b"}" * 300 + b",") * 500,
    ],
    ids=["numbers", "arrays", "nested objects"],
)
def test_a_body_of_a_million_values_is_refused_before_it_is_decoded(raw: bytes) -> None:
    began = time.process_time()
    with pytest.raises(Refused, match=f"more than {VALUES_MAX} values"):
        decode_object(raw)
    assert time.process_time() - began < 0.02


LARGE = head("POST", "/wallet/alice/deposit", "Content-Type: application/json", f"Content-Length: {60 * KIB}")


async def test_a_body_beyond_the_share_of_its_client_is_read_when_there_is_room(database_url: str) -> None:
    """And is not refused: the client's other request may be over soon."""
    limits = BodyLimits(bodies_bytes_max=400 * KIB, body_seconds_max=3.0)
    async with running_api(database_url, body_limits=limits) as api, raw_connection(api.port) as slow:
        await slow.send(LARGE + b" " * (60 * KIB - 1))
        waiting = asyncio.create_task(api.send(LARGE + b'{"amount":1}'.ljust(60 * KIB)))
        assert (await api.post("/wallet/alice/deposit", '{"amount":1}')).status == 201
        assert not waiting.done()
        await slow.send(b" ")
        assert (await waiting).status == 201


async def test_a_body_that_waits_too_long_for_room_is_refused_as_not_executed(database_url: str) -> None:
    limits = BodyLimits(bodies_bytes_max=240 * KIB, body_seconds_max=1.0)
    large = b'{"amount":1}'.ljust(60 * KIB)
    async with running_api(database_url, body_limits=limits) as api:
        await api.post("/wallet/alice/deposit", '{"amount":1}')
        async with connected(database_url) as outside, outside.transaction():
            await outside.execute("select from wallets where wallet_id = 'alice' for update")
            waiting = asyncio.create_task(api.send(LARGE + large))

            async def is_refused() -> bool:
                answer = await api.send(LARGE.replace(b"alice", b"bob") + large)
                return (answer.status, answer.json.get("code")) == (503, "not_executed")

            await eventually(is_refused)
        assert (await waiting).status == 201


async def test_many_large_bulk_requests_of_one_client_wait_and_none_is_refused(database_url: str) -> None:
    async with running_api(database_url, body_limits=BodyLimits()) as api:
        operation = '{"type":"deposit","walletId":"w","amount":"1","requestId":"%s"}'

        async def send_bulk(number: int) -> int:
            body = '{"mode":"independent","operations":[' + operation % f"k{number}" + "]}"
            return (await api.post("/operations", body.ljust(1024 * KIB - 16))).status

        assert await asyncio.gather(*(send_bulk(number) for number in range(24))) == [200] * 24


async def test_bodies_that_are_declared_and_not_sent_take_no_room(database_url: str) -> None:
    limits = BodyLimits(bodies_bytes_max=400 * KIB, body_seconds_max=30.0)
    async with running_api(database_url, body_limits=limits) as api, AsyncExitStack() as stack:
        for _ in range(10):
            await (await stack.enter_async_context(raw_connection(api.port))).send(LARGE + b"{")
        assert (await api.send(LARGE + b'{"amount":1}'.ljust(60 * KIB))).status == 201


async def test_one_client_uses_at_most_a_quarter_of_the_memory_for_bodies() -> None:
    budget = BodyBudget(400 * KIB)
    first = [exchange_from(f"127.0.0.{number + 2}") for number in range(3)]
    for exchange in first:
        await budget.reserve(exchange, 100 * KIB)
    second = exchange_from("127.0.0.2")
    waiting = asyncio.create_task(budget.reserve(second, 1))
    honest = exchange_from("127.0.0.1")
    await budget.reserve(honest, 60 * KIB)
    await budget.reserve(exchange_from("127.0.0.8"), 40 * KIB)
    with pytest.raises(Refused, match="other requests"):
        await budget.reserve(exchange_from("127.0.0.9"), 1)
    budget.release(honest)
    await budget.reserve(exchange_from("127.0.0.9"), 50 * KIB)
    assert not waiting.done()
    budget.release(first[0])
    await waiting
    assert second.reserved_bytes == 1


async def test_the_addresses_of_one_ipv6_network_are_one_client(database_url: str) -> None:
    async with running_api(database_url, trusted_proxies="127.0.0.1") as api:
        for number in range(20):
            await api.post("/wallet/-/deposit", "{}", f"X-Forwarded-For: 2001:db8:0:1::{number:x}")
        refused = api.trail_buffer._refused
        assert list(refused._allowances) == ["2001:db8:0:1::/64"]


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
    stored = await fetch_rows(database_url, "select headers->>'x-request-id' as id from api_audit where status < 300")
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
