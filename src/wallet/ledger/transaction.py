"""One batch as one database transaction: lock, load, decide, write, commit.

| phase  | round trips | what                                                                        |
|--------|-------------|-----------------------------------------------------------------------------|
| begin  | 1           |                                                                             |
| lock   | 1-2         | insert rows for wallets that a credit may create, then lock all, by key     |
| load   | 1-4         | separate statements: one that waited for a lock keeps its older snapshot    |
| decide | 0           | pure functions, see wallet.domain.batch                                     |
| write  | 3 or more   | operations, transfers, events, trail rows, wallets, one journal row         |
| commit | 1           |                                                                             |

Bounds: at most BATCH_MAX commands, in whole requests (see gathering). Ordering: the commands of a batch are decided in
the given order. A crash before COMMIT leaves nothing stored, and a crash after it leaves everything stored. If the same
batch runs again, it finds its own outcomes by their keys.

No batch is executed while PostgreSQL's clock differs too much from this process's clock. The time of an event never
changes, and the next event of the wallet is never earlier. So after one commit with a clock that is years ahead, all
further events of the wallet would have nearly the same time, and the fraud rules would count them as rapid. Replays are
refused as well, because each one stores an audit trail row, which would have the wrong time.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from wallet.domain.batch import BatchState, Executable
from wallet.domain.identifiers import ApiAuditId, BatchId, OperationKey, WalletId
from wallet.domain.wallet import Wallet
from wallet.ledger import statements
from wallet.ledger.deciding import BatchDecider, KnownWallets
from wallet.ledger.requests import BULK_STATUS, Answer, Completed, Phase, Render, Request, RequestKind, commands_of
from wallet.ledger.statements import rows_of
from wallet.postgres.connections import Connection
from wallet.postgres.statements import uuid7
from wallet.postgres.writing import WriteConflict, Writing
from wallet.runtime.failpoints import failpoint
from wallet.trail.records import (
    EndedTransfer,
    TrailRow,
    complete_rows_of_transfers,
    complete_trail_rows,
    insert_trail_rows,
)
from wallet.wire.digest import digest_of

OVERLAP_EVENTS_MIN: Final = 400
"""From about this many events, building the rows of a batch takes longer than a turn of the event loop."""


class ClockDiffers(Exception):
    """PostgreSQL's clock and this process's differ too much; the message states by how much, and the setting."""


def check_clock(
    now: datetime, *, asked_at_seconds: float, answered_at_seconds: float, difference_seconds_max: float
) -> None:
    """Compare PostgreSQL's time with this process's Unix time right before the statement and right after its answer.

    Only the distance from that span counts as a difference, so a slow statement or event loop adds nothing to it.
    Raises ClockDiffers.
    """
    ahead_seconds, behind_seconds = now.timestamp() - answered_at_seconds, asked_at_seconds - now.timestamp()
    if max(ahead_seconds, behind_seconds) > difference_seconds_max:
        is_ahead = ahead_seconds > 0
        raise ClockDiffers(
            f"PostgreSQL's clock is {max(ahead_seconds, behind_seconds):,.1f} s {'ahead of' if is_ahead else 'behind'} "
            f"this process's clock, and CLOCK_DIFFERENCE_MAX_SECONDS allows {difference_seconds_max:g} s."
        )


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The results of a committed batch: one for each request, except those on wallets locked by other sessions."""

    completed: list[tuple[Request, Completed]]
    existing: list[WalletId]
    deferred: list[Request]
    locked_elsewhere: set[WalletId]


@dataclass(frozen=True, slots=True)
class BatchMode:
    """How to run a batch: transfers stepwise or not, whether to skip locked wallets, and the limit for the clocks."""

    stepwise: bool
    clock_difference_max_seconds: float
    skip_locked: bool = False
    may_insert_wallets: bool = True


async def run_batch(
    connection: Connection, requests: list[Request], *, render: Render, mode: BatchMode, known: KnownWallets
) -> BatchResult:
    """Run the batch and commit it. After an exception, `Request.phase` states whether a COMMIT was sent."""
    for request in requests:
        if request.phase is Phase.WAITING:
            request.phase = Phase.BEGUN
    try:
        await failpoint("ledger.before_begin")
        await connection.execute("begin")
        result = await _run_in_transaction(connection, requests, render, mode, known)
        await failpoint("ledger.before_commit")
    except BaseException:
        _roll_back(requests)
        raise
    _roll_back(result.deferred)
    await _commit(connection, [request for request, _ in result.completed])
    known.remember(result.existing)
    return result


def _roll_back(requests: list[Request]) -> None:
    now = asyncio.get_running_loop().time()
    for request in requests:
        request.roll_back(now)


async def _commit(connection: Connection, requests: list[Request]) -> None:
    """Send the COMMIT. If this raises, the outcome of the batch is unknown until it is run again."""
    for request in requests:
        request.phase = Phase.UNKNOWN
    tag = await connection.execute("commit")
    assert tag == "COMMIT", tag
    await failpoint("ledger.after_commit")


async def _run_in_transaction(
    connection: Connection, requests: list[Request], render: Render, mode: BatchMode, known: KnownWallets
) -> BatchResult:
    inserted, locked, locked_elsewhere = await _lock(connection, requests, mode, known)
    await failpoint("ledger.after_lock")
    deferred = (
        [request for request in requests if locked_elsewhere.intersection(request.wallet_ids)]
        if locked_elsewhere
        else []
    )
    if deferred:
        requests = [request for request in requests if not locked_elsewhere.intersection(request.wallet_ids)]
    state, answers = await _load(connection, list(commands_of(requests)), dict(locked), mode)
    deciding = BatchDecider(state, answers, render)
    completed = [(request, deciding.complete(request)) for request in requests]
    await _write(connection, completed, state, locked)
    unmade = [wallet_id for wallet_id in inserted if not state.wallet(wallet_id).exists]
    if unmade:
        await statements.delete_unmade_wallets(connection, unmade)
    existing = [wallet_id for wallet_id, wallet in state.wallets.items() if wallet.exists]
    return BatchResult(completed, existing, deferred, locked_elsewhere)


async def _lock(
    connection: Connection, requests: list[Request], mode: BatchMode, known: KnownWallets
) -> tuple[list[WalletId], dict[WalletId, Wallet], set[WalletId]]:
    """Lock the wallets. Returns the inserted wallets, the locked ones, and those that could not be locked.

    The last set is empty without `skip_locked`. It has wallets that other sessions have locked or are inserting.
    """
    stepwise = mode.stepwise
    wallet_ids = {each for command in commands_of(requests) for each in command.locked(stepwise=stepwise)}
    creditable = {each for command in commands_of(requests) for each in command.credited(stepwise=stepwise)}
    inserted: list[WalletId] = []
    unknown = known.unknown(creditable) if mode.may_insert_wallets else set()
    if unknown:
        inserted = await statements.insert_wallets(connection, unknown)
    locked = await statements.lock_wallets(connection, wallet_ids, skip_locked=mode.skip_locked)
    missing = wallet_ids - locked.keys()
    if not mode.skip_locked:
        if missing & creditable:
            known.forget(missing)
            raise WriteConflict
        return inserted, locked, set()
    locked_elsewhere = missing & creditable
    if missing - locked_elsewhere:
        locked_elsewhere |= await statements.existing_wallets(connection, missing - locked_elsewhere)
    return inserted, locked, locked_elsewhere


async def _load(
    connection: Connection,
    commands: list[Executable],
    wallets: dict[WalletId, Wallet],
    mode: BatchMode,
) -> tuple[BatchState, dict[OperationKey, Answer]]:
    asked_at_seconds = time.time()
    loaded = await statements.load_operations(connection, [command.key for command in commands])
    check_clock(
        loaded.now,
        asked_at_seconds=asked_at_seconds,
        answered_at_seconds=time.time(),
        difference_seconds_max=mode.clock_difference_max_seconds,
    )
    state = BatchState(loaded.now, wallets, loaded.operations, stepwise=mode.stepwise)
    if loaded.has_debited and wallets:
        state.refundable = await statements.load_refundable(connection, wallets)
    credit_terms = [terms for command in commands if (terms := command.receives) is not None]
    if credit_terms:
        state.credits = await statements.load_credits(connection, credit_terms)
    conclude_terms = [terms for command in commands if (terms := command.concludes) is not None]
    if conclude_terms:
        state.unfinished = await statements.load_unfinished(connection, conclude_terms)
    return state, loaded.answers


async def _write(
    connection: Connection,
    completed: list[tuple[Request, Completed]],
    state: BatchState,
    locked: dict[WalletId, Wallet],
) -> None:
    """Write the rows. PostgreSQL stores some while the next ones are built, so the costliest come first."""
    batch_id = BatchId(uuid7())
    async with Writing(connection, overlaps=len(state.events) >= OVERLAP_EVENTS_MIN) as writing:
        rows = rows_of(completed, state)
        await statements.write_rows(writing, rows, batch_id, state.now)
        events = await statements.insert_events(writing, state.events, batch_id)
        await _write_audit_rows(writing, completed, state.now)
        changed = [wallet for wallet_id, wallet in state.wallets.items() if wallet is not locked[wallet_id]]
        if changed:
            await statements.update_wallets(writing, locked, changed)
        if events or rows.operations or rows.completed:
            await statements.insert_journal_row(writing, batch_id, len(events), digest_of(events, rows.outcomes()))


async def _write_audit_rows(writing: Writing, completed: list[tuple[Request, Completed]], now: datetime) -> None:
    """Write one row per POST, with its answer's status. A stepwise transfer's row gets it when the transfer ends.

    If the outcome of a request's COMMIT was unknown, the request may already have a row without a status: at that time
    its transfer was pending, and the transfer may have ended since.
    """
    rows: list[TrailRow] = []
    decided: list[tuple[WalletId, ApiAuditId, int]] = []
    ended: list[EndedTransfer] = []
    for request, result in completed:
        if request.record is not None:
            status = _status_of(request, result)
            rows.append(TrailRow(request.record, status))
            if request.phase is Phase.UNKNOWN and request.kind is RequestKind.SINGLE and status is not None:
                decided.append((request.wallet_ids[0], request.record.api_audit_id, status))
        for command, answer in zip(request.commands, result.answers, strict=True):
            if answer is not None and command.concludes is not None:
                ended.append(EndedTransfer(command.key, command.api_audit_id, answer.status))
    if rows:
        await insert_trail_rows(writing, rows, now)
    if decided:
        await complete_trail_rows(writing, decided)
    if ended:
        await complete_rows_of_transfers(writing, ended)


def _status_of(request: Request, result: Completed) -> int | None:
    """Returns the status of the answer to the whole request, or None if its transfer has not ended yet."""
    if request.kind is RequestKind.SINGLE:
        answer = result.answers[0]
        return None if answer is None else answer.status
    return BULK_STATUS if result.refusal is None else result.refusal.status
