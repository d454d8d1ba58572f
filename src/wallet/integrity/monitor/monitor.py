"""The auditor as a task of the worker: stands by until the lease is free, then looks and passes until asked to stop.

Phases: stand by → hold the lease: a look every LOOK_SECONDS on one connection, the slices of a pass on another → at
stop give the lease up, so that the next auditor takes over at once.

- It never hurts the worker: whatever happens here is logged and tried again with a growing pause, the database's
  absence, a bug and another holder alike; a slice is followed by a wait of nine times its length, a look that left a
  backlog by one of its own length.
- A crash loses what was learned since the last save, which is after each look and each slice.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

import structlog

from wallet.integrity.findings import Check
from wallet.integrity.monitor import faults
from wallet.integrity.monitor.full_check import prove_slice
from wallet.integrity.monitor.incremental_check import Look, apply, is_weighing_due, start_of
from wallet.integrity.monitor.lease import LeaseLost, Tenure, new_holder
from wallet.integrity.monitor.state import Looked, State, Weighed
from wallet.integrity.snapshot import STATEMENT_SECONDS as PASS_STATEMENT_SECONDS
from wallet.integrity.snapshot import NotMigrated, snapshot_on
from wallet.postgres.connections import ROWS_BY_KEY, STATEMENT_SECONDS, Connection, connect
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.postgres.migrations import missing_migrations
from wallet.runtime.loop import Pace
from wallet.runtime.standby import Standby

LOOK_SECONDS: Final = 5.0
"""A twelfth of the minute within which a fault must show; an idle look costs a few milliseconds."""
FIRST_LOOK_SECONDS: Final = 0.5
"""Until the first slice of the first pass has summed what there is."""
STANDBY_SECONDS: Final = 5.0
PASS_SECONDS: Final = 30.0
"""The least from the beginning of one pass to the next, so that small books are proved twice a minute."""
REST: Final = 9.0
"""A slice is followed by a rest of so many times its length: a tenth of the time is for the pass."""
REST_IDLE: Final = 99.0
"""Where nothing was sealed since the last pass, a hundredth: books that nobody uses should cost next to nothing."""
REST_SECONDS_MAX: Final = 60.0
"""However slow a slice was: a rest of an hour would leave changes unproved for as long, and say so to nobody."""
GIVE_UP_SECONDS: Final = 2.0
STOP_SECONDS: Final = 4.0
"""A database that does not even answer the goodbye is no reason to stay."""
_RETRY_SECONDS_MIN: Final = 0.5
_RETRY_SECONDS_MAX: Final = 10.0

_PLANNED_EACH_TIME: Final = {"plan_cache_mode": "force_custom_plan"}
"""A slice may be one bucket or all of them; a plan for either would be wrong for the other."""

Result = TypeVar("Result")

_log = structlog.get_logger()


async def run_auditor(dsn: str, stop: asyncio.Event) -> None:
    """Audit until stop. No outage ends it, and nothing is raised."""
    auditing = asyncio.create_task(_audit(dsn), name="auditor")
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({auditing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        auditing.cancel()
        await asyncio.wait({auditing, stopping}, timeout=STOP_SECONDS)


async def _audit(dsn: str) -> None:
    holder = new_holder()
    while True:
        tenure = await _until_done(partial(_stand_by, dsn, holder))
        try:
            await _hold(dsn, tenure)
        except* LeaseLost as lost:
            _log.warning("audit_lease_lost", reason=str(lost.exceptions[0]))


async def _until_done(work: Callable[[], Awaitable[Result]]) -> "Result":
    """Do the work, again and again with growing pauses where it fails; raises only LeaseLost."""
    pace = Pace(seconds_min=_RETRY_SECONDS_MIN, seconds_max=_RETRY_SECONDS_MAX)
    while True:
        begun = time.monotonic()
        try:
            return await work()
        except LeaseLost:
            raise
        except (*DATABASE_ERRORS, NotMigrated) as error:
            _log.warning("audit_paused", reason=repr(error))
        except Exception:  # noqa: BLE001 - A loop of the process: it logs, and goes on.
            _log.exception("audit_failed")
        if time.monotonic() - begun > _RETRY_SECONDS_MAX:
            pace.reset()
        await pace.wait()


async def _stand_by(dsn: str, holder: str) -> Tenure:
    """Wait until the lease is ours."""
    standby = Standby(_log, "audit_stands_by")
    async with _connected(dsn, ROWS_BY_KEY) as connection:
        while True:
            tenure = await Tenure.take(connection, holder, standby)
            if tenure is not None:
                return tenure
            await asyncio.sleep(STANDBY_SECONDS)


async def _hold(dsn: str, tenure: Tenure) -> None:
    """Look and pass until the lease is lost, neither hindered by what stops the other; then, or at stop, give it up."""
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_until_done(partial(_look_on, dsn, tenure)))
            tasks.create_task(_until_done(partial(_pass_on, dsn, tenure)))
    finally:
        with suppress(*DATABASE_ERRORS, NotMigrated):
            async with asyncio.timeout(GIVE_UP_SECONDS), _connected(dsn, ROWS_BY_KEY) as connection:
                await tenure.give_up(connection)


async def _look_on(dsn: str, tenure: Tenure) -> None:
    async with _connected(dsn, ROWS_BY_KEY) as connection:
        while True:
            is_caught_up, looked = await look_once(connection, tenure), tenure.state.looked
            if looked is None:
                await asyncio.sleep(FIRST_LOOK_SECONDS)
            else:
                # Beside a backlog of looks there may be one of events: half of the time stays for them.
                await asyncio.sleep(LOOK_SECONDS if is_caught_up else looked.seconds)


async def look_once(connection: Connection, tenure: Tenure) -> bool:
    """Look at what is new, and keep what was learned; whether that was all there is."""
    state, looked = tenure.state, None
    start = start_of(state)
    if start is not None:
        async with snapshot_on(connection) as snapshot:
            look = Look(snapshot, start, waiting=state.waiting, page_events=state.page_events)
            try:
                looked = await look.run(state.looked)
            except DATABASE_ERRORS:
                state.page_events = max(state.page_events // 2, 1)
                raise
            if looked.is_caught_up and is_weighing_due(state, looked.taken_at):
                await _weigh(look, state, looked)
        apply(state, look, start, looked)
        if state.has_checked_nothing:
            # The first pass was over an empty journal: the next one is not to wait for its turn.
            tenure.pass_wanted.set()
        if look.is_off_balance and Check.CONSERVATION.name not in state.faults:
            # The sums name no wallet; the pass does.
            state.due_at = looked.taken_at
            tenure.pass_wanted.set()
        faults.enter(state, look.findings, looked.taken_at)
    await tenure.save(connection)
    return looked is None or looked.is_caught_up


async def _weigh(look: Look, state: State, looked: Looked) -> None:
    # Should it fail, it took as long as it may, and is not tried again by the very next look.
    before, state.weighed = state.weighed, Weighed(looked.taken_at, STATEMENT_SECONDS)
    seconds = await look.weigh()
    state.weighed = before if seconds is None else Weighed(looked.taken_at, seconds)


async def _pass_on(dsn: str, tenure: Tenure) -> None:
    async with _connected(dsn, _PLANNED_EACH_TIME, PASS_STATEMENT_SECONDS) as connection:
        pass_begun = time.monotonic()
        while True:
            rest = await pass_on_once(connection, tenure)
            await _rest(tenure, rest)
            if tenure.state.passing is None:
                await _rest(tenure, max(0.0, pass_begun + PASS_SECONDS - time.monotonic()))
                pass_begun = time.monotonic()


async def _rest(tenure: Tenure, seconds: float) -> None:
    """Rest, until a look wants the pass to go on."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await tenure.pass_wanted.wait()
    tenure.pass_wanted.clear()


async def pass_on_once(connection: Connection, tenure: Tenure) -> float:
    """Prove the next slice, and keep what was learned; for how many seconds to rest from it."""
    state, begun = tenure.state, time.monotonic()
    is_known = state.passed is not None and state.looked is not None and state.looked.head == state.passed.head
    async with snapshot_on(connection) as snapshot:
        await prove_slice(snapshot, state)
    seconds = time.monotonic() - begun
    # A fault on record, or a warning, is waited for by somebody who mends it.
    is_quiet = is_known and not state.faults and not _has_warnings(state)
    rest = min(seconds * (REST_IDLE if is_quiet else REST), REST_SECONDS_MAX)
    if state.passing is not None:
        state.passing.planned_seconds += seconds + rest
    state.due_at = snapshot.taken_at + timedelta(seconds=seconds + rest)
    await tenure.save(connection)
    return rest


def _has_warnings(state: State) -> bool:
    return state.passed is not None and any(tally.warnings for tally in state.passed.tallies.values())


@asynccontextmanager
async def _connected(
    dsn: str, settings: Mapping[str, str], statement_seconds: float = STATEMENT_SECONDS
) -> AsyncIterator[Connection]:
    """A connection of its own to a migrated database. Raises NotMigrated, or one of DATABASE_ERRORS."""
    connection = await connect(
        dsn, application_name="wallet auditor", statement_seconds=statement_seconds, settings=settings
    )
    try:
        missing = await missing_migrations(connection)
        if missing:
            raise NotMigrated(f"The database lacks {', '.join(missing)}; run `wallet migrate`.")
        yield connection
    finally:
        with suppress(*DATABASE_ERRORS):
            await connection.close(timeout=GIVE_UP_SECONDS)
