"""The stepwise transfer: drives a debited transfer to its end, for its request or for recovery.

Each step is a command of its own through the lanes. The receiver's word (transfer_credits) alone decides, so any
number of drivers of one transfer agree; nobody compensates on a time-out, an error or its own judgement.

Recovery drives the stepwise transfers that have lost their driver; none of them delays another.

First attempts: it walks over all unfinished transfers, oldest first, a page at a time: a page begins where the one
before ended, and the walk begins again at its end. Each attempt is bounded in time, and many run side by side.

Later attempts have slots of their own, and are served in the order in which they become due, so each has its turn
however many fail. Before an attempt, one statement for a page finds out which of its transfers are still unfinished,
and which have a wallet that another session has locked: an attempt would only wait for the lock, so they are looked at
again a little later. One whose attempt fails waits longer each time.

How often a transfer has failed is remembered in the process, not in the database: it decides only how soon to try
again, and a table would be written to for every failure, when the database may be what fails. So after a restart each
transfer is tried at once; the bounds on pages and attempts keep that from being a stampede. Several processes may
drive one transfer: the receiver's decision is stored once.
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
"""A transfer untouched for so long has lost its driver."""
ROUND_SECONDS: Final = 1.0
PAGE_MAX: Final = 200
ROUND_MAX: Final = 2000
"""Transfers that one round reads; the next round goes on behind them."""
FIRST_ATTEMPTS_MAX: Final = 32
REPEATED_ATTEMPTS_MAX: Final = 32
"""Side by side, in one process."""
ATTEMPT_SECONDS_FIRST: Final = 1.0
"""An attempt that needs longer, on a busy system, has twice as long each time, up to the deadline of a request."""
BACKOFF_SECONDS_MAX: Final = 60.0
LOCKED_BACKOFF_SECONDS_MAX: Final = 5.0
"""To look at a lock again costs a share of one statement."""
LOCKED: Final = "another session has locked a wallet of the transfer"
FAILURES_LOGGED_FROM: Final = 3
"""The first failures may be a database that restarts; from here on, the 3rd, 6th, 12th, 24th … are logged."""
REMEMBERED_MAX: Final = 10_000
"""Failed transfers; those beyond are tried as if they were new."""
Drive = Callable[[Any, float], Awaitable[Answer]]
"""Drives the transfer of a row to its end before a deadline (in the event loop's clock), or raises OutcomeUnknown."""
log = structlog.get_logger()


class Saga:
    """Drives transfers through their steps 2 and 3."""

    def __init__(self, pool: Pool, *, submit: Submit) -> None:
        self._pool = pool
        self._submit = submit

    async def finish(self, terms: TransferTerms, command: Command, deadline: float) -> Answer:
        """Drive a debited transfer to its end and return its answer.

        Raises OutcomeUnknown if that can't be done before the deadline: the debit is durable, so recovery or a
        retry of the key will finish it.
        """
        return await self._drive(
            terms,
            request_id=command.request_id,
            api_audit_id=command.api_audit_id,
            deadline=deadline,
        )

    async def finish_pending(self, key: OperationKey, command: Command, deadline: float, *, is_own: bool) -> Answer:
        """Drive the transfer of a key that was sent before; the retry's answer is a replay."""
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
        """Drive the transfer of this row to its end for nobody in particular; raises as `finish` does."""
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
            # The debit is durable: to say "not executed" now would be a lie.
            raise OutcomeUnknown("The transfer was begun and has not ended yet.") from error
        assert answer is not None
        return Answer(answer.status, answer.body)

    async def _pending_transfer(self, key: OperationKey) -> Any:
        return await self._pool.fetchrow(SQL.pending_transfer, bucket_of(key.wallet_id), *key)


def _terms_of(row: Any) -> TransferTerms:
    return TransferTerms(row["transfer_id"], row["from_wallet_id"], row["to_wallet_id"], row["amount"], row["currency"])


class _Place(NamedTuple):
    """Where the walk is: behind the transfer with these values."""

    updated_at: datetime
    transfer_id: UUID


_BEGINNING: Final = _Place(datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))


@dataclass(frozen=True, slots=True)
class _Failed:
    """A transfer that could not be ended: how often, by how many attempts, and when (loop's clock) it is due again."""

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
        """Until stopped: try to end every transfer that nobody has touched for a while."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._in_rounds(self._walk, tasks))
            tasks.create_task(self._in_rounds(self._repeat, tasks))

    async def _in_rounds(self, work: Callable[[asyncio.TaskGroup], Awaitable[None]], tasks: asyncio.TaskGroup) -> None:
        while not self._stopping.is_set():
            try:
                await work(tasks)
            except DATABASE_ERRORS as error:
                log.warning("transfer_recovery_waits", error=repr(error))
            # Jittered, so that several processes fall out of step and find different transfers to drive.
            await is_set_within(self._stopping, ROUND_SECONDS * random.uniform(0.8, 1.2))

    async def _walk(self, tasks: asyncio.TaskGroup) -> None:
        """First attempts: go on from the last place, to the end of what is unfinished or to the round's limit."""
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
        """Later attempts: one page of those that are due, those that have waited longest first."""
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
                # Somebody else has ended it.
                self._failed.pop(transfer_id, None)

    async def _still_unfinished(self, rows: Sequence[Any]) -> Sequence[Any]:
        """Read again those that are not finished, with whether a wallet of theirs is locked."""
        if not rows:
            return []
        wallet_ids, transfer_ids = [row["from_wallet_id"] for row in rows], [row["transfer_id"] for row in rows]
        return await self._pool.fetch(SQL.still_unfinished, wallet_ids, transfer_ids)

    async def _attempt(self, row: Any, attempt_count: int, slots: asyncio.Semaphore, tasks: asyncio.TaskGroup) -> None:
        """Wait for a slot and begin an attempt, unless there is one, a wallet is locked, or recovery is stopping."""
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
