"""One batch as one database transaction: lock, load, decide, write, commit.

| phase  | round trips | what                                                                        |
|--------|-------------|-----------------------------------------------------------------------------|
| begin  | 1           |                                                                             |
| lock   | 1-2         | rows for wallets that a credit may make, then every wallet, in key order    |
| load   | 1-3         | in later statements, since a lock wait does not refresh its own snapshot    |
| decide | 0           | pure, see wallet.domain.batch                                               |
| write  | 3-8         | operations, events, transfers, audit rows, wallets, one journal row         |
| commit | 1           |                                                                             |

Bounds: at most BATCH_MAX requests (see gathering). Ordering: the requests of a batch are decided in the order
given. A crash at any line leaves nothing behind before COMMIT and everything after it; the same batch run
again finds its own outcomes by their keys.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, assert_never

from wallet.domain.batch import (
    BatchState,
    Begun,
    Concluded,
    Credited,
    Decided,
    Decision,
    Replayed,
    StillPending,
    decide_batch,
)
from wallet.domain.commands import (
    Command,
    ConcludeTransfer,
    CreditTransfer,
    Deposit,
    OperationKey,
    SagaStep,
    Transfer,
    key_of,
)
from wallet.domain.identifiers import ApiAuditId, WalletId
from wallet.domain.outcomes import KeyReused
from wallet.domain.wallet import Wallet
from wallet.failpoints import failpoint
from wallet.ledger import statements
from wallet.ledger.answers import Answer, Render
from wallet.ledger.audit import AuditRow, insert_audit_rows, settle_audit_rows
from wallet.ledger.requests import Phase, Request, Settled
from wallet.ledger.rows import rows_of

if TYPE_CHECKING:
    from wallet.postgres.connections import Connection


@dataclass(slots=True)
class BatchResult:
    """What a committed batch gave: a result for each request but those on wallets that others hold."""

    settled: list[tuple[Request, Settled]]
    held_back: list[Request]
    held: set[WalletId]


@dataclass(frozen=True, slots=True)
class BatchMode:
    """How to run a batch: transfers in steps or whole, and whether to step over wallets locked by others."""

    stepwise: bool
    skip_locked: bool = False
    may_insert_wallets: bool = True


async def run_batch(
    connection: "Connection", requests: list[Request], *, render: Render, mode: BatchMode
) -> BatchResult:
    """Run the batch to its COMMIT. Whatever is raised, `Request.phase` tells whether a COMMIT was sent."""
    for request in requests:
        if request.phase is Phase.WAITING:
            request.phase = Phase.BEGUN
    try:
        await failpoint("ledger.before_begin")
        await connection.execute("begin")
        result = await _run_in_transaction(connection, requests, render, mode)
        await failpoint("ledger.before_commit")
    except BaseException:
        _roll_back(requests)
        raise
    _roll_back(result.held_back)
    await _commit(connection, [request for request, _ in result.settled])
    return result


def _roll_back(requests: list[Request]) -> None:
    now = asyncio.get_running_loop().time()
    for request in requests:
        request.roll_back(now)


async def _commit(connection: "Connection", requests: list[Request]) -> None:
    """From here on, only PostgreSQL knows: an error leaves the outcome unknown until the batch is run again."""
    for request in requests:
        request.phase = Phase.UNKNOWN
    tag = await connection.execute("commit")
    assert tag == "COMMIT", tag
    await failpoint("ledger.after_commit")


async def _run_in_transaction(
    connection: "Connection", requests: list[Request], render: Render, mode: BatchMode
) -> BatchResult:
    inserted, locked, held = await _lock(connection, requests, mode)
    await failpoint("ledger.after_lock")
    held_back = [request for request in requests if held.intersection(request.wallet_ids)] if held else []
    if held_back:
        requests = [request for request in requests if not held.intersection(request.wallet_ids)]
    commands = [request.command for request in requests]
    state, answers = await _load(connection, commands, dict(locked), mode)
    decisions = decide_batch(commands, state)
    rendered = _render(commands, decisions, answers, render)
    await _write(connection, requests, decisions, rendered, state, locked)
    if inserted:
        unmade = [wallet_id for wallet_id in inserted if not state.wallet(wallet_id).exists]
        if unmade:
            await statements.delete_unmade_wallets(connection, unmade)
    settled = [
        (request, Settled(decision, answer))
        for request, decision, answer in zip(requests, decisions, rendered, strict=True)
    ]
    return BatchResult(settled, held_back, held)


async def _lock(
    connection: "Connection", requests: list[Request], mode: BatchMode
) -> tuple[list[WalletId], dict[WalletId, Wallet], set[WalletId]]:
    """The wallets inserted now, those locked, and with skip_locked those that others hold or are just making."""
    wallet_ids = {wallet_id for request in requests for wallet_id in _locked_by(request.command, mode)}
    creditable = {wallet_id for request in requests for wallet_id in _credited_by(request.command, mode)}
    inserted: list[WalletId] = []
    if creditable and mode.may_insert_wallets:
        inserted = await statements.insert_wallets(connection, creditable)
    locked = await statements.lock_wallets(connection, wallet_ids, skip_locked=mode.skip_locked)
    if not mode.skip_locked:
        return inserted, locked, set()
    missing = wallet_ids - locked.keys()
    held = missing & creditable
    if missing - held:
        held |= await statements.existing_wallets(connection, missing - held)
    return inserted, locked, held


def _locked_by(command: Command | SagaStep, mode: BatchMode) -> tuple[WalletId, ...]:
    match command:
        case CreditTransfer():
            return (command.terms.to_wallet_id,)
        case ConcludeTransfer():
            return (command.terms.from_wallet_id,)
        case Transfer() if not mode.stepwise:
            return (command.wallet_id, command.to_wallet_id)
        case _:
            return (command.wallet_id,)


def _credited_by(command: Command | SagaStep, mode: BatchMode) -> tuple[WalletId, ...]:
    match command:
        case Deposit():
            return (command.wallet_id,)
        case CreditTransfer():
            return (command.terms.to_wallet_id,)
        case Transfer() if not mode.stepwise:
            return (command.to_wallet_id,)
        case _:
            return ()


async def _load(
    connection: "Connection",
    commands: list[Command | SagaStep],
    wallets: dict[WalletId, Wallet],
    mode: BatchMode,
) -> tuple[BatchState, dict[OperationKey, Answer]]:
    now, operations, answers = await statements.load_operations(connection, map(key_of, commands))
    state = BatchState(now, wallets, operations, stepwise=mode.stepwise)
    credit_terms = [command.terms for command in commands if isinstance(command, CreditTransfer)]
    if credit_terms:
        state.credits = await statements.load_credits(connection, credit_terms)
    conclude_terms = [command.terms for command in commands if isinstance(command, ConcludeTransfer)]
    if conclude_terms:
        state.unfinished = await statements.load_unfinished(connection, conclude_terms)
    return state, answers


def _render(
    commands: list[Command | SagaStep],
    decisions: list[Decision],
    answers: dict[OperationKey, Answer],
    render: Render,
) -> list[Answer | None]:
    """The answer of each decision, in order: a replay may need the answer of an earlier command of this batch."""
    rendered: list[Answer | None] = []
    for command, decision in zip(commands, decisions, strict=True):
        answer: Answer | None = None
        match decision:
            case Decided(outcome) | Concluded(outcome):
                answer = answers[key_of(command)] = render(key_of(command), outcome)
            case KeyReused():
                answer = render(key_of(command), decision)
            case Replayed(key, is_own):
                stored = answers[key]
                answer = Answer(stored.status, stored.body, replayed=not is_own)
            case Begun() | StillPending() | Credited():
                pass
            case _:
                assert_never(decision)
        rendered.append(answer)
    return rendered


async def _write(
    connection: "Connection",
    requests: list[Request],
    decisions: list[Decision],
    rendered: list[Answer | None],
    state: BatchState,
    locked: dict[WalletId, Wallet],
) -> None:
    rows = rows_of([request.command for request in requests], decisions, rendered, state)
    await statements.write_rows(connection, rows, state.now)
    await _write_audit_rows(connection, requests, rendered, state.now)
    changed = [wallet for wallet_id, wallet in state.wallets.items() if wallet is not locked[wallet_id]]
    if changed:
        await statements.update_wallets(connection, locked, changed)
    if rows.belongs_in_journal:
        await statements.insert_journal_row(connection, rows)


async def _write_audit_rows(
    connection: "Connection", requests: list[Request], rendered: list[Answer | None], now: datetime
) -> None:
    """One row per POST with its answer's status; a stepwise transfer's gets it when the transfer ends."""
    rows: list[AuditRow] = []
    ended: list[tuple[WalletId, ApiAuditId, int]] = []
    for request, answer in zip(requests, rendered, strict=True):
        if request.audit is not None:
            rows.append(AuditRow(request.audit, None if answer is None else answer.status))
        if isinstance(request.command, ConcludeTransfer) and answer is not None:
            command = request.command
            sender = command.terms.from_wallet_id
            audit_ids = (command.api_audit_id, *command.waiting_audit_ids)
            ended.extend((sender, audit_id, answer.status) for audit_id in audit_ids)
    if rows:
        await insert_audit_rows(connection, rows, now)
    if ended:
        await settle_audit_rows(connection, ended)
