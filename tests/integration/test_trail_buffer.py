"""The background writer of audit trail rows: no row can stop it or delay a request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from uuid_utils.compat import uuid7

from tests.support.database import fetch_rows
from tests.support.waiting import eventually
from wallet.domain.identifiers import ApiAuditId
from wallet.postgres.connections import open_pool
from wallet.runtime.metrics import Metrics
from wallet.trail.buffer import TrailBuffer
from wallet.trail.records import TrailRecord, TrailRow

LOST = "wallet_trail_rows_lost_total"


def row(body: str, status: int = 400, *, api_audit_id: ApiAuditId | None = None) -> TrailRow:
    return TrailRow(
        TrailRecord(
            api_audit_id=api_audit_id or ApiAuditId(uuid7()),
            method="POST",
            url="/wallet/alice/deposit",
            body=body,
            body_length=len(body),
            body_sha256=bytes(32),
            headers_json="{}",
            client_ip="127.0.0.1",
            wallet_id=None,
            request_id=None,
        ),
        status,
    )


@asynccontextmanager
async def writing(database_url: str, metrics: Metrics) -> AsyncIterator[TrailBuffer]:
    async with open_pool(database_url, application_name="test audit", size_max=1) as pool:
        buffer = TrailBuffer(pool, metrics, deferred_seconds=0.2)
        writer = asyncio.create_task(buffer.run())
        try:
            yield buffer
        finally:
            writer.cancel()
            with suppress(asyncio.CancelledError):
                await writer


async def bodies(database_url: str) -> set[str]:
    return {row["body"] for row in await fetch_rows(database_url, "select body from api_audit")}


async def has_bodies(database_url: str, expected: set[str]) -> bool:
    return await bodies(database_url) == expected


async def test_a_row_that_the_database_refuses_is_lost_alone(database_url: str) -> None:
    metrics = Metrics("api")
    async with writing(database_url, metrics) as buffer:
        for body in ("first", "a NUL: \x00", "last"):
            buffer.add(row(body))
        await eventually(lambda: has_bodies(database_url, {"first", "last"}))
        buffer.add(row("later"))
        await eventually(lambda: has_bodies(database_url, {"first", "last", "later"}))
    assert f"{LOST} 1.0" in metrics.render().decode()


async def test_a_deferred_row_is_written_later_and_only_if_no_other_came_first(database_url: str) -> None:
    metrics = Metrics("api")
    shared = ApiAuditId(uuid7())
    async with writing(database_url, metrics) as buffer:
        buffer.add_deferred(row("unknown", 503, api_audit_id=shared))
        buffer.add_deferred(row("unknown too", 503))
        buffer.add(row("known", 201, api_audit_id=shared))
        await eventually(lambda: has_bodies(database_url, {"known", "unknown too"}))
    assert f"{LOST} 0.0" in metrics.render().decode()


async def test_what_can_not_be_written_before_the_end_is_counted_as_lost() -> None:
    metrics = Metrics("api")
    async with writing("postgresql://nobody@127.0.0.1:1/none", metrics) as buffer:
        buffer.add(row("one"))
        buffer.add_deferred(row("two"))
    await buffer.flush()
    assert f"{LOST} 2.0" in metrics.render().decode()
