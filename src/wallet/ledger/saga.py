"""The stepwise transfer: drives a debited transfer to its end, for its request or for recovery.

Each step is a command that runs through the lanes. The receiver's decision (transfer_credits) alone determines the end,
so all processes that drive one transfer agree. No process compensates because of a time-out, an error or a decision of
its own.

Recovery drives the stepwise transfers that no process drives any more. No transfer delays another.

First attempts: recovery reads all unfinished transfers, oldest first, one page at a time. Each page continues where the
previous one ended; after the last page, recovery starts again from the beginning. Each attempt is limited in time, and
many attempts run concurrently.

Later attempts have their own slots and run in the order in which they become due, so each transfer has its turn even
if many fail. Before the attempts of a page, one statement reads which of its transfers are still unfinished, and which
have a wallet that another session has locked. An attempt on a locked wallet would only wait for the lock, so the
transfer is checked again a little later. After each failed attempt a transfer waits longer.

The number of failures of a transfer is kept in the process, not in the database. It decides only the time of the next
attempt, and a table would need a write for every failure, which may be a failure of the database itself. So after a
restart each transfer is tried at once; the limits on pages and attempts bound the load. Several processes may drive one
transfer, because the receiver's decision is stored only once.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import structlog

from wallet.domain.batch import Credited, Executable
from wallet.domain.commands import Command, ConcludeTransfer, CreditTransfer
from wallet.domain.events import TransferTerms
from wallet.domain.identifiers import ApiAuditId, OperationKey, RequestId, TransferId, bucket_of
from wallet.ledger.requests import Answer, CommandFailed, Completed, NotExecuted, OutcomeUnknown
from wallet.ledger.statements import SQL
from wallet.postgres.connections import Pool
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.runtime.failpoints import FailpointRaised, failpoint
from wallet.runtime.loop import is_set_within
from wallet.trail.records import TrailRecord

Submit = Callable[[Executable, TrailRecord | None, float], Awaitable[Completed]]
STUCK_AFTER: Final = timedelta(seconds=5)
"""A transfer that has not changed for this long is assumed to have no process that drives it."""
ROUND_SECONDS: Final = 1.0
PAGE_MAX: Final = 200
ROUND_MAX: Final = 2000
"""How many transfers one round reads. The next round continues after them."""
FIRST_ATTEMPTS_MAX: Final = 32
REPEATED_ATTEMPTS_MAX: Final = 32
"""How many attempts run concurrently in one process."""
ATTEMPT_SECONDS_FIRST: Final = 1.0
"""The time limit of the first attempt. It doubles with each further attempt, up to the deadline of a request."""
BACKOFF_SECONDS_MAX: Final = 60.0
LOCKED_BACKOFF_SECONDS_MAX: Final = 5.0
"""Short, because checking a lock again is cheap: one statement checks a whole page."""
LOCKED: Final = "another session has locked a wallet of the transfer"
FAILURES_LOGGED_FROM: Final = 3
"""The 3rd, 6th, 12th, 24th … failure is logged. The first ones may be caused by a restart of the database."""
REMEMBERED_MAX: Final = 10_000
"""How many failed transfers are remembered. Further ones are tried as if they were new."""
Drive = Callable[[Any, float], Awaitable[Answer]]
"""Drives the transfer of a row to its end before a deadline (event loop's clock), or raises OutcomeUnknown."""
log = structlog.get_logger()


class Saga:
    """Drives transfers through their steps 2 and 3."""

    def __init__(self, pool: Pool, *, submit: Submit) -> None:
        self._pool = pool
        self._submit = submit

    async def finish(self, terms: TransferTerms, command: Command, deadline: float) -> Answer:
        """Drive a debited transfer to its end and return its answer.

        Raises OutcomeUnknown if that can't be done before the deadline. The debit is durable, so recovery or a retry
        with the key will finish the transfer.
        """
        return await self._drive(
            terms,
            request_id=command.request_id,
            api_audit_id=command.api_audit_id,
            deadline=deadline,
        )

    async def finish_pending(self, key: OperationKey, command: Command, deadline: float, *, is_own: bool) -> Answer:
        """Drive the unfinished transfer of a key. The answer is a replay, unless `is_own`."""
        try:
            row = await self._pending_transfer(key)
        except DATABASE_ERRORS as error:
            raise OutcomeUnknown("The transfer could not be read.") from error
        answer = await self._drive(
            _terms_of(row),
            request_id=key.request_id,
            api_audit_id=row["api_audit_id"],
            deadline=deadline,
        )
        return Answer(answer.status, answer.body, replayed=not is_own)

    async def recover(self, row: Any, deadline: float) -> Answer:
        """Drive the transfer of this row to its end, on behalf of no client. Raises the same errors as `finish`."""
        return await self._drive(
            _terms_of(row),
            request_id=row["request_id"],
            api_audit_id=row["api_audit_id"],
            deadline=deadline,
        )

    async def _drive(
        self,
        terms: TransferTerms,
        *,
        request_id: RequestId,
        api_audit_id: ApiAuditId,
        deadline: float,
    ) -> Answer:
        try:
            await failpoint("saga.after_debit")
            credit = CreditTransfer(terms=terms, request_id=request_id, api_audit_id=api_audit_id)
            [credited] = (await self._submit(credit, None, deadline)).decisions
            assert isinstance(credited, Credited)
            await failpoint("saga.after_credit")
            end = ConcludeTransfer(
                terms=terms,
                request_id=request_id,
                api_audit_id=api_audit_id,
                credit=credited.outcome,
            )
            [answer] = (await self._submit(end, None, deadline)).answers
        except (NotExecuted, CommandFailed, FailpointRaised) as error:
            # The debit is durable, so "not executed" would be wrong.
            raise OutcomeUnknown("The transfer was begun and has not ended yet.") from error
        assert answer is not None
        return Answer(answer.status, answer.body)

    async def _pending_transfer(self, key: OperationKey) -> Any:
        return await self._pool.fetchrow(SQL.pending_transfer, bucket_of(key.wallet_id), *key)


def _terms_of(row: Any) -> TransferTerms:
    return TransferTerms(row["transfer_id"], row["from_wallet_id"], row["to_wallet_id"], row["amount"], row["currency"])


class _Place(NamedTuple):
    """The position of the walk: directly after the transfer with these values."""

    updated_at: datetime
    transfer_id: UUID


_BEGINNING: Final = _Place(datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))


@dataclass(frozen=True, slots=True)
class _Failed:
    """A transfer that could not be ended.

    It has the number of failures, the number of attempts among them (a locked wallet is a failure without an attempt),
    and the time (in the event loop's clock) when it is due again.
    """

    row: Any
    failed_count: int
    attempt_count: int
    due_seconds: float


class Recovery:
    """The recovery of one process; `run` it until `stop`."""

    def __init__(self, pool: Pool, drive: Drive, *, deadline_seconds: float) -> None:
        self._pool = pool
        self._drive = drive
        self._deadline_seconds = deadline_seconds
        self._stopping = asyncio.Event()
        self._first_attempts = asyncio.Semaphore(FIRST_ATTEMPTS_MAX)
        self._repeated_attempts = asyncio.Semaphore(REPEATED_ATTEMPTS_MAX)
        self._under_way: set[TransferId] = set()
        self._failed: dict[TransferId, _Failed] = {}
        self._place = _BEGINNING

    def stop(self) -> None:
        """Let `run` return after the attempts under way."""
        self._stopping.set()

    async def run(self) -> None:
        """Until stopped, try to end every transfer that has not changed for STUCK_AFTER."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._in_rounds(self._walk, tasks))
            tasks.create_task(self._in_rounds(self._repeat, tasks))

    async def _in_rounds(self, work: Callable[[asyncio.TaskGroup], Awaitable[None]], tasks: asyncio.TaskGroup) -> None:
        while not self._stopping.is_set():
            try:
                await work(tasks)
            except DATABASE_ERRORS as error:
                log.warning("transfer_recovery_waits", error=repr(error))
            # Jittered, so that several processes do not run in step and find different transfers to drive.
            await is_set_within(self._stopping, ROUND_SECONDS * random.uniform(0.8, 1.2))

    async def _walk(self, tasks: asyncio.TaskGroup) -> None:
        """Begin first attempts, from the last place to the last unfinished transfer, or to the round's limit."""
        for _ in range(ROUND_MAX // PAGE_MAX):
            rows = await self._pool.fetch(SQL.stuck_transfers, STUCK_AFTER, *self._place, PAGE_MAX)
            new = [row for row in rows if row["transfer_id"] not in self._failed]
            for row in await self._still_unfinished(new):
                await self._attempt(row, 0, self._first_attempts, tasks)
            if self._stopping.is_set():
                return
            if rows:
                self._place = _Place(rows[-1]["updated_at"], rows[-1]["transfer_id"])
            if len(rows) < PAGE_MAX:
                self._place = _BEGINNING
                return

    async def _repeat(self, tasks: asyncio.TaskGroup) -> None:
        """Begin later attempts: one page of those that are due, longest-waiting first."""
        now = asyncio.get_running_loop().time()
        due = sorted(
            (each for each in self._failed.values() if each.due_seconds <= now), key=lambda each: each.due_seconds
        )[:PAGE_MAX]
        found = {row["transfer_id"]: row for row in await self._still_unfinished([each.row for each in due])}
        for failed in due:
            transfer_id = failed.row["transfer_id"]
            if transfer_id in found:
                await self._attempt(found[transfer_id], failed.attempt_count, self._repeated_attempts, tasks)
            else:
                # Another process has ended it.
                self._failed.pop(transfer_id, None)

    async def _still_unfinished(self, rows: Sequence[Any]) -> Sequence[Any]:
        """Read the transfers again. Returns the unfinished ones, with whether another session has locked a wallet."""
        if not rows:
            return []
        wallet_ids, transfer_ids = [row["from_wallet_id"] for row in rows], [row["transfer_id"] for row in rows]
        return await self._pool.fetch(SQL.still_unfinished, wallet_ids, transfer_ids)

    async def _attempt(self, row: Any, attempt_count: int, slots: asyncio.Semaphore, tasks: asyncio.TaskGroup) -> None:
        """Wait for a slot and begin an attempt, unless one is under way, a wallet is locked, or recovery stops."""
        if row["transfer_id"] in self._under_way or self._stopping.is_set():
            return
        if row["is_locked"]:
            self._note_failure(row, attempt_count, LOCKED, LOCKED_BACKOFF_SECONDS_MAX)
            return
        await slots.acquire()
        if self._stopping.is_set():
            slots.release()
            return
        self._under_way.add(row["transfer_id"])
        tasks.create_task(self._try_to_end(row, attempt_count + 1, slots))

    async def _try_to_end(self, row: Any, attempt_count: int, slots: asyncio.Semaphore) -> None:
        transfer_id = row["transfer_id"]
        seconds = min(ATTEMPT_SECONDS_FIRST * 2 ** min(attempt_count - 1, 10), self._deadline_seconds)
        try:
            answer = await self._drive(row, asyncio.get_running_loop().time() + seconds)
        except OutcomeUnknown as error:
            self._note_failure(row, attempt_count, repr(error), BACKOFF_SECONDS_MAX)
        else:
            self._failed.pop(transfer_id, None)
            log.info("transfer_recovered", transfer_id=str(transfer_id), status=answer.status)
        finally:
            self._under_way.discard(transfer_id)
            slots.release()

    def _note_failure(self, row: Any, attempt_count: int, error: str, backoff_seconds_max: float) -> None:
        transfer_id = row["transfer_id"]
        known = self._failed.get(transfer_id)
        if known is None and len(self._failed) >= REMEMBERED_MAX:
            return
        count = 1 if known is None else known.failed_count + 1
        backoff_seconds = min(2.0 ** min(count - 1, 10), backoff_seconds_max) * random.uniform(0.8, 1.2)
        due_seconds = asyncio.get_running_loop().time() + backoff_seconds
        self._failed[transfer_id] = _Failed(row, count, attempt_count, due_seconds)
        rounds, rest = divmod(count, FAILURES_LOGGED_FROM)
        if not rest and rounds & (rounds - 1) == 0:
            log.warning(
                "transfer_recovery_failed",
                transfer_id=str(transfer_id),
                attempts=count,
                next_attempt_seconds=round(backoff_seconds, 1),
                error=error,
            )
