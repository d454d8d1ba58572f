"""Runs the integrity monitor's two kinds of check side by side while it has the lease."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

import structlog

from wallet.integrity.findings import Check
from wallet.integrity.monitor import faults
from wallet.integrity.monitor.full_check import check_slice
from wallet.integrity.monitor.incremental_check import IncrementalCheck, apply, is_balance_sum_due, start_of
from wallet.integrity.monitor.state import (
    FULL,
    INCREMENTAL,
    BalanceSumCheck,
    CheckFailure,
    IncrementalResult,
    MonitorLease,
    MonitorState,
)
from wallet.integrity.snapshot import SQL, damage_finding, snapshot_on
from wallet.integrity.snapshot import STATEMENT_SECONDS as FULL_STATEMENT_SECONDS
from wallet.postgres.connections import ROWS_BY_KEY, STATEMENT_SECONDS, Connection
from wallet.postgres.errors import DATABASE_ERRORS, Cause, cause_of
from wallet.postgres.lease import LeaseLost
from wallet.postgres.session import NotMigrated, session
from wallet.runtime.loop import Backoff
from wallet.runtime.started import Standby

INCREMENTAL_SECONDS: Final = 5.0
"""Faults must be reported within a minute; this leaves room for delays. A check of nothing takes milliseconds."""
FIRST_CHECK_SECONDS: Final = 0.5
"""The interval while the first full check has not yet summed the existing events."""
STANDBY_SECONDS: Final = 5.0
FULL_CHECK_SECONDS: Final = 30.0
"""The shortest time between the starts of two full checks: small books are checked twice a minute."""
PAUSE_FACTOR: Final = 9.0
"""A slice is followed by a pause of nine times its duration: the full check uses a tenth of the time."""
PAUSE_FACTOR_IDLE: Final = 99.0
"""If nothing was sealed since the last full check, it uses a hundredth: checks of idle books must be cheap."""
PAUSE_SECONDS_MAX: Final = 60.0
"""A longer pause would leave changes unverified, and nothing would report it."""
GIVE_UP_SECONDS: Final = 2.0
"""The time limit for releasing the lease at the stop."""
_RETRY_SECONDS_MIN: Final = 0.5
_RETRY_SECONDS_MAX: Final = 10.0

_PLANNED_EACH_TIME: Final = {"plan_cache_mode": "force_custom_plan"}
"""A slice covers one bucket or all of them; a plan for the one would be wrong for the other."""

Result = TypeVar("Result")

_log = structlog.get_logger()


async def until_done(
    work: Callable[[], Awaitable[Result]], report: Callable[[Exception], Awaitable[None]] | None = None
) -> "Result":
    """Do the work, and retry it with growing pauses when it fails. Raises only LeaseLost.

    `report` is called with each error that waiting does not fix.
    """
    backoff = Backoff(seconds_min=_RETRY_SECONDS_MIN, seconds_max=_RETRY_SECONDS_MAX)
    while True:
        begun = time.monotonic()
        try:
            return await work()
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 - A loop of the process: it logs the error and continues.
            if _is_retryable(error):
                _log.warning("integrity_check_paused", reason=repr(error))
            else:
                _log.exception("integrity_check_failed")
                if report is not None:
                    await report(error)
        if time.monotonic() - begun > _RETRY_SECONDS_MAX:
            backoff.reset()
        await backoff.wait()


def _is_retryable(error: Exception) -> bool:
    if isinstance(error, NotMigrated):
        return True
    return isinstance(error, DATABASE_ERRORS) and cause_of(error) in (Cause.AWAY, Cause.BUSY)


async def stand_by(dsn: str, holder: str) -> MonitorLease:
    """Wait for the lease."""
    standby = Standby(_log, "integrity_stands_by")
    async with _connected(dsn, ROWS_BY_KEY) as connection:
        while True:
            lease = await MonitorLease.take(connection, holder, standby)
            if lease is not None:
                return lease
            await asyncio.sleep(STANDBY_SECONDS)


async def check(dsn: str, lease: MonitorLease) -> None:
    """Check until cancelled, or until the lease is lost; then release it if it is still this process's.

    A failure of one kind of check does not stop the other.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            for name, work in ((INCREMENTAL, _check_new), (FULL, _check_everything)):
                tasks.create_task(until_done(partial(work, dsn, lease), partial(_report, dsn, lease, name)))
    finally:
        with suppress(*DATABASE_ERRORS, NotMigrated):
            async with asyncio.timeout(GIVE_UP_SECONDS), _connected(dsn, ROWS_BY_KEY) as connection:
                await lease.release(connection)


async def _report(dsn: str, lease: MonitorLease, name: str, error: Exception) -> None:
    """Save that a check fails; damage to the database's files is a fault. Raises LeaseLost."""
    state = lease.state
    with suppress(*DATABASE_ERRORS, NotMigrated):
        async with asyncio.timeout(STATEMENT_SECONDS), _connected(dsn, ROWS_BY_KEY) as connection:
            at = await connection.fetchval(SQL.read_clock)
            since = state.failed[name].at if name in state.failed else at
            state.failed[name] = CheckFailure(since, str(error) or type(error).__name__)
            if isinstance(error, DATABASE_ERRORS) and cause_of(error) is Cause.DAMAGED:
                faults.enter(state, [damage_finding(error)], at)
            await lease.save(connection)


async def _check_new(dsn: str, lease: MonitorLease) -> None:
    async with _connected(dsn, ROWS_BY_KEY) as connection:
        while True:
            is_caught_up = await check_new_once(connection, lease)
            result = lease.state.incremental
            if result is None:
                await asyncio.sleep(FIRST_CHECK_SECONDS)
            else:
                # A pause as long as the check leaves half of the time to the worker, which may have a backlog.
                await asyncio.sleep(INCREMENTAL_SECONDS if is_caught_up else result.seconds)


async def check_new_once(connection: Connection, lease: MonitorLease) -> bool:
    """Check new batches and save the result. Returns whether it caught up."""
    state, result = lease.state, None
    start = start_of(state)
    if start is not None:
        async with snapshot_on(connection) as snapshot:
            check = IncrementalCheck(snapshot, start, waiting=state.waiting, page_events=state.page_events)
            try:
                result = await check.run(state.incremental)
            except DATABASE_ERRORS:
                state.page_events = max(state.page_events // 2, 1)
                raise
            if result.is_caught_up and is_balance_sum_due(state, result.taken_at):
                await _sum_balances(check, state, result)
        apply(state, check, start, result)
        if state.has_checked_nothing:
            # The first full check found an empty journal, so the next one starts at once.
            lease.full_check_wanted.set()
        if check.is_off_balance and Check.CONSERVATION.name not in state.faults:
            # The sums do not show which wallet is wrong; the full check does.
            state.due_at = result.taken_at
            lease.full_check_wanted.set()
        faults.enter(state, check.findings, result.taken_at)
    state.failed.pop(INCREMENTAL, None)
    await lease.save(connection)
    return result is None or result.is_caught_up


async def _sum_balances(check: IncrementalCheck, state: MonitorState, result: IncrementalResult) -> None:
    # If this fails, the stored duration is the longest one allowed, so the next incremental check does not try again at
    # once.
    before, state.balance_sum = state.balance_sum, BalanceSumCheck(result.taken_at, STATEMENT_SECONDS)
    seconds = await check.sum_balances()
    state.balance_sum = before if seconds is None else BalanceSumCheck(result.taken_at, seconds)


async def _check_everything(dsn: str, lease: MonitorLease) -> None:
    async with _connected(dsn, _PLANNED_EACH_TIME, FULL_STATEMENT_SECONDS) as connection:
        full_check_begun = time.monotonic()
        while True:
            pause_seconds = await check_slice_once(connection, lease)
            await _pause(lease, pause_seconds)
            if lease.state.full_progress is None:
                await _pause(lease, max(0.0, full_check_begun + FULL_CHECK_SECONDS - time.monotonic()))
                full_check_begun = time.monotonic()


async def _pause(lease: MonitorLease, seconds: float) -> None:
    """Wait, unless an incremental check asks for the full check."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await lease.full_check_wanted.wait()
    lease.full_check_wanted.clear()


async def check_slice_once(connection: Connection, lease: MonitorLease) -> float:
    """Check the next slice and save the result. Returns how many seconds to pause."""
    state, begun = lease.state, time.monotonic()
    incremental, full = state.incremental, state.full_result
    is_known = full is not None and incremental is not None and incremental.head == full.head
    async with snapshot_on(connection) as snapshot:
        await check_slice(snapshot, state)
    state.failed.pop(FULL, None)
    seconds = time.monotonic() - begun
    # With a fault or a warning the checks follow each other faster, so that it disappears soon after its cause.
    is_quiet = is_known and not state.faults and not _has_warnings(state)
    pause_seconds = min(seconds * (PAUSE_FACTOR_IDLE if is_quiet else PAUSE_FACTOR), PAUSE_SECONDS_MAX)
    if state.full_progress is not None:
        state.full_progress.planned_seconds += seconds + pause_seconds
    state.due_at = snapshot.taken_at + timedelta(seconds=seconds + pause_seconds)
    await lease.save(connection)
    return pause_seconds


def _has_warnings(state: MonitorState) -> bool:
    return state.full_result is not None and any(tally.warnings for tally in state.full_result.tallies.values())


def _connected(
    dsn: str, settings: Mapping[str, str], statement_seconds: float = STATEMENT_SECONDS
) -> AbstractAsyncContextManager[Connection]:
    return session(
        dsn, application_name="wallet integrity monitor", statement_seconds=statement_seconds, settings=settings
    )
