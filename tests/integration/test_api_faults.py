"""The API when something is wrong on our side: clients get a word they can act on, and nothing is made up."""

import asyncio
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import HOST, RunningApi, head, post, running_api
from tests.support.database import execute, fetch_rows
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.raw_http import raw_connection
from tests.support.relay import relay_settings, running_relay
from tests.support.waiting import eventually
from wallet.api.edge.server import CannotListen, PortInUse, ServerLimits, serve
from wallet.api.routes import health as health_module
from wallet.api.services import Executes
from wallet.domain.commands import Command
from wallet.ledger.requests import Answer, BulkAnswer, CommandFailed, NotExecuted, OutcomeUnknown
from wallet.trail.buffer import BATCH_ROWS_MAX, REFUSED_ROWS_MAX
from wallet.trail.records import TrailRecord

DEPOSIT = "/wallet/alice/deposit"
LOST = "wallet_trail_rows_lost_total"
BODY = '{"amount":"1","requestId":"key"}'


class Failing:
    """A ledger in front of the real one that fails first, once."""

    def __init__(self, inner: Executes, error: Exception) -> None:
        self._inner = inner
        self._error: Exception | None = error

    async def execute(self, command: Command, record: TrailRecord) -> Answer:
        error, self._error = self._error, None
        if error is not None:
            raise error
        return await self._inner.execute(command, record)

    async def execute_bulk(
        self, commands: Sequence[Command], record: TrailRecord, *, client: str, is_atomic: bool
    ) -> BulkAnswer:
        error, self._error = self._error, None
        if error is not None:
            raise error
        return await self._inner.execute_bulk(commands, record, client=client, is_atomic=is_atomic)


class Paused:
    """A ledger in front of the real one that waits for a signal before it begins."""

    def __init__(self, inner: Executes) -> None:
        self._inner = inner
        self.asked = asyncio.Event()
        self.may_go = asyncio.Event()

    async def execute(self, command: Command, record: TrailRecord) -> Answer:
        self.asked.set()
        await self.may_go.wait()
        return await self._inner.execute(command, record)

    async def execute_bulk(
        self, commands: Sequence[Command], record: TrailRecord, *, client: str, is_atomic: bool
    ) -> BulkAnswer:
        self.asked.set()
        await self.may_go.wait()
        return await self._inner.execute_bulk(commands, record, client=client, is_atomic=is_atomic)


async def trail_rows(database_url: str) -> list[tuple[int, str | None]]:
    found = await fetch_rows(database_url, 'select status, request_id from api_audit order by "timestamp"')
    return [(row["status"], row["request_id"]) for row in found]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NotExecuted("The service is busy."), 503, "not_executed"),
        (CommandFailed(), 500, "internal_error"),
        (ZeroDivisionError("a bug with a s3cret in its words"), 500, "internal_error"),
    ],
)
async def test_a_failure_is_a_problem_and_has_its_audit_row(
    database_url: str, error: Exception, status: int, code: str
) -> None:
    async with running_api(database_url, around_ledger=lambda ledger: Failing(ledger, error)) as api:
        failed = await api.post(DEPOSIT, BODY)
        await eventually(lambda: trail_rows(database_url))
        retried = await api.post(DEPOSIT, BODY)
    assert (failed.status, failed.code) == (status, code)
    assert failed.json["requestId"] == "key"
    assert b"s3cret" not in failed.body
    assert b"Traceback" not in failed.body
    assert retried.status == 201
    assert await trail_rows(database_url) == [(status, "key"), (201, "key")]


@pytest.mark.parametrize("error", [NotExecuted(), OutcomeUnknown()])
async def test_a_503_names_the_key_to_retry_with_even_if_we_made_it(database_url: str, error: Exception) -> None:
    async with running_api(database_url, around_ledger=lambda ledger: Failing(ledger, error)) as api:
        failed = await api.post(DEPOSIT, '{"amount":1}')
        key = failed.json["requestId"]
        first = await api.post(DEPOSIT, '{"amount":1}', f"Idempotency-Key: {key}")
        again = await api.post(DEPOSIT, '{"amount":1}', f"Idempotency-Key: {key}")
    assert failed.status == 503
    assert failed.headers["retry-after"] == "1"
    assert key in failed.json["detail"]
    assert first.body == again.body


async def test_the_audit_row_of_an_unknown_outcome_gives_way_to_the_ledgers_own(database_url: str) -> None:
    class CommitsAllTheSame(Failing):
        async def execute(self, command: Command, record: TrailRecord) -> Answer:
            await self._inner.execute(command, record)
            raise OutcomeUnknown

    wrap = CommitsAllTheSame
    async with running_api(database_url, around_ledger=lambda ledger: wrap(ledger, OutcomeUnknown())) as api:
        failed = await api.post(DEPOSIT, BODY)
    assert (failed.status, failed.code) == (503, "outcome_unknown")
    assert await trail_rows(database_url) == [(201, "key")]


async def test_without_its_database_the_api_says_so_and_recovers(own_postgres_server: PostgresServer) -> None:
    database_url = own_postgres_server.create_database()
    async with running_api(database_url, request_deadline_seconds=1) as api:
        assert (await api.post(DEPOSIT, '{"amount":1}')).status == 201
        await asyncio.to_thread(own_postgres_server.stop)
        moved = await api.post(DEPOSIT, BODY)
        read = await api.get("/wallet/alice")
        await eventually(lambda: is_ready(api, False))
        not_ready = await api.get("/readyz")
        assert (await api.get("/healthz")).status == 200
        assert (await api.post(DEPOSIT, '{"amount":0}')).status == 400
        await asyncio.to_thread(own_postgres_server.start)
        await eventually(lambda: is_ready(api, True))
        assert (await api.get("/wallet/alice")).json["balance"] == "1.0000"
        assert (await api.post(DEPOSIT, BODY)).status == 201
        await eventually(lambda: has_rows(database_url, 4))
    assert moved.status == 503
    assert moved.code in {"not_executed", "outcome_unknown"}
    assert (read.status, read.code, read.headers["retry-after"]) == (503, "unavailable", "1")
    assert not_ready.code == "not_ready"
    assert [error["check"] for error in not_ready.json["errors"]] == ["database"]
    assert database_url not in not_ready.body.decode()


async def is_ready(api: RunningApi, expected: bool) -> bool:
    return ((await api.get("/readyz")).status == 200) is expected


async def has_rows(database_url: str, count: int) -> bool:
    return len(await trail_rows(database_url)) == count


async def test_readiness_names_what_is_missing(empty_database_url: str) -> None:
    async with running_api(empty_database_url) as api:
        not_ready = await api.get("/readyz")
    assert not_ready.code == "not_ready"
    assert [error["check"] for error in not_ready.json["errors"]] == ["migrations"]


async def test_events_that_nobody_takes_away_degrade_and_do_not_refuse(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "BACKLOG_SECONDS_MAX", 0.5)
    async with running_api(database_url) as api:
        before = await api.get("/readyz")
        await api.post(DEPOSIT, BODY)
        after = await eventually(lambda: degraded(api))
    assert before.json["status"] == "ready"
    details = {check["name"]: check["detail"] for check in after["checks"] if check["status"] == "degraded"}
    assert details.keys() == {"relay"}
    assert details["relay"].startswith("events wait and no relay seals them; nothing is lost; oldest unsealed ")
    assert ", oldest unpublished " in details["relay"]


async def test_events_wait_whatever_the_lease_and_the_clock_say(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "BACKLOG_SECONDS_MAX", 1.5)
    async with running_api(database_url) as api:
        await api.post(DEPOSIT, BODY)
        # As after the clock was put back by an hour.
        await execute(database_url, "alter table events disable trigger user")
        await execute(database_url, "update events set occurred_at = now() + interval '1 hour'")
        await execute(database_url, "update journal_head set holder = 'x', lease_until = now() + interval '1 hour'")
        assert (await api.get("/readyz")).json["status"] == "ready"
        after = await eventually(lambda: degraded(api))
    assert "no relay seals them" in next(check["detail"] for check in after["checks"] if check["name"] == "relay")


async def test_events_that_are_sealed_and_not_published_degrade_too(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "BACKLOG_SECONDS_MAX", 0.5)
    nowhere = f"amqp://guest:guest@127.0.0.1:{free_port()}/"
    async with running_api(database_url) as api, running_relay(relay_settings(database_url, nowhere, tmp_path)):
        await api.post(DEPOSIT, BODY)
        after = await eventually(lambda: degraded(api))
    [detail] = [check["detail"] for check in after["checks"] if check["name"] == "relay"]
    assert detail.startswith("events wait to be published; nothing is lost; oldest unsealed 0.0 s")


async def degraded(api: RunningApi) -> dict[str, Any]:
    answer = await api.get("/readyz")
    assert answer.status == 200
    assert answer.json["status"] == "degraded"
    return dict(answer.json)


async def test_a_server_whose_commits_could_be_lost_is_not_ready(database_url: str) -> None:
    name = database_url.rpartition("/")[2]
    await execute(database_url, f'alter database "{name}" set synchronous_commit = off')
    async with running_api(database_url) as api:
        not_ready = await api.get("/readyz")
    assert not_ready.status == 503
    assert "synchronous_commit is off" in not_ready.json["detail"]


async def test_more_refusals_than_the_buffer_holds_are_counted_as_lost(own_postgres_server: PostgresServer) -> None:
    database_url = own_postgres_server.create_database()
    sent = REFUSED_ROWS_MAX + BATCH_ROWS_MAX + 50
    async with running_api(database_url) as api:
        await asyncio.to_thread(own_postgres_server.stop)
        async with raw_connection(api.port) as connection:
            for _ in range(sent):
                await connection.send(post(DEPOSIT, "{}"))
                assert (await connection.answer()).status == 400
        metrics = (await api.get("/metrics")).body.decode()
        [lost] = [int(float(line.split()[1])) for line in metrics.splitlines() if line.startswith(LOST)]
        assert 0 < lost <= sent - REFUSED_ROWS_MAX
        await asyncio.to_thread(own_postgres_server.start)
        await eventually(lambda: has_rows(database_url, sent - lost), within=20)


async def test_the_effect_does_not_depend_on_the_client_staying(database_url: str) -> None:
    paused: list[Paused] = []

    def pause(ledger: Executes) -> Executes:
        paused.append(Paused(ledger))
        return paused[0]

    async with running_api(database_url, around_ledger=pause) as api:
        async with raw_connection(api.port) as connection:
            await connection.send(post(DEPOSIT, BODY))
            await paused[0].asked.wait()
            connection.abort()
        paused[0].may_go.set()
        await eventually(lambda: has_rows(database_url, 1))
        balance = await api.get("/wallet/alice")
    assert balance.json["balance"] == "1.0000"
    assert await trail_rows(database_url) == [(201, "key")]


async def test_a_stop_answers_what_was_read_and_closes_what_is_idle(database_url: str) -> None:
    paused: list[Paused] = []

    def pause(ledger: Executes) -> Executes:
        paused.append(Paused(ledger))
        return paused[0]

    async with (
        running_api(database_url, around_ledger=pause) as api,
        raw_connection(api.port) as idle,
        raw_connection(api.port) as busy,
    ):
        await idle.send(head("GET", "/healthz"))
        assert (await idle.answer()).status == 200
        await busy.send(post(DEPOSIT, BODY))
        await paused[0].asked.wait()
        api.stop.set()
        assert await idle.is_closed_by_server()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(HOST, api.port)
        paused[0].may_go.set()
        answer = await busy.answer()
        assert await busy.is_closed_by_server()
    assert json.loads(answer.body)["balance"] == "1.0000"


async def test_a_stop_does_not_wait_for_ever(database_url: str) -> None:
    paused: list[Paused] = []

    def pause(ledger: Executes) -> Executes:
        paused.append(Paused(ledger))
        return paused[0]

    limits = ServerLimits(head_seconds_max=1.0, stop_seconds_max=0.2)
    async with (
        running_api(database_url, around_ledger=pause, server_limits=limits) as api,
        raw_connection(api.port) as busy,
    ):
        await busy.send(post(DEPOSIT, BODY))
        await paused[0].asked.wait()
        api.stop.set()
        await asyncio.wait_for(api.served, 2)
        paused[0].may_go.set()
        await eventually(lambda: has_rows(database_url, 1))


async def test_an_address_that_is_not_ours_is_one_clear_line() -> None:
    with pytest.raises(CannotListen, match=r"^Cannot listen on 203\.0\.113\.1, port 3000: [^\n]+$"):
        await serve(None, host="203.0.113.1", port=3000, stop=asyncio.Event(), on_ready=lambda _url: None)


async def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"^Port {port} on 127\.0\.0\.1 is in use: [^\n]+$"):
            await serve(None, host=HOST, port=port, stop=asyncio.Event(), on_ready=lambda _url: None)
