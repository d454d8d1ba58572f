"""The statements of one batch as functions: arrays in, rows out, one round trip each."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from wallet.domain.batch import StoredOperation
from wallet.domain.commands import OperationKey
from wallet.domain.digest import DigestedEvent
from wallet.domain.events import SCHEMA_VERSION, TransferTerms
from wallet.domain.identifiers import BatchId, TransferId, WalletId, bucket_of
from wallet.domain.transfer import CreditAccepted, CreditOutcome, CreditRefused
from wallet.domain.wallet import DEFAULT_CURRENCY, Wallet
from wallet.ledger.answers import Answer
from wallet.ledger.rows import BatchRows, CreditRow, OperationRow, TransferRow
from wallet.postgres.statements import load_statements

if TYPE_CHECKING:
    from wallet.postgres.connections import AnyConnection

SQL: Final = load_statements("wallet.ledger", "ledger.sql")
_encode_payload: Final = msgspec.json.Encoder(order="sorted").encode


class WriteConflict(Exception):
    """Someone else stored one of the batch's keys or changed one of its wallets first: run the batch again."""


def _sorted_keys(wallet_ids: Iterable[WalletId]) -> tuple[list[int], list[WalletId]]:
    keys = sorted((bucket_of(wallet_id), wallet_id) for wallet_id in set(wallet_ids))
    return [bucket for bucket, _ in keys], [wallet_id for _, wallet_id in keys]


async def insert_wallets(connection: "AnyConnection", wallet_ids: Iterable[WalletId]) -> list[WalletId]:
    """Make rows to lock for wallets that a credit may create; returns those inserted now."""
    buckets, ids = _sorted_keys(wallet_ids)
    rows = await connection.fetch(SQL.insert_wallets, buckets, ids, DEFAULT_CURRENCY)
    return [row["wallet_id"] for row in rows]


async def lock_wallets(
    connection: "AnyConnection", wallet_ids: Iterable[WalletId], *, skip_locked: bool
) -> dict[WalletId, Wallet]:
    """Lock the rows in key order; those without a row are missing, and with skip_locked those held by others too."""
    buckets, ids = _sorted_keys(wallet_ids)
    rows = await connection.fetch(SQL.lock_free_wallets if skip_locked else SQL.lock_wallets, buckets, ids)
    return {
        row["wallet_id"]: Wallet(
            row["wallet_id"], row["currency"], row["balance"], row["version"], row["last_event_at"]
        )
        for row in rows
    }


async def existing_wallets(connection: "AnyConnection", wallet_ids: Iterable[WalletId]) -> set[WalletId]:
    """Which of these have a row, locked by anyone or not."""
    rows = await connection.fetch(SQL.existing_wallets, *_sorted_keys(wallet_ids))
    return {row["wallet_id"] for row in rows}


async def load_operations(
    connection: "AnyConnection", keys: Iterable[OperationKey]
) -> tuple[datetime, dict[OperationKey, StoredOperation], dict[OperationKey, Answer]]:
    """PostgreSQL's clock, what is stored for the keys, and the stored answers of the final ones."""
    ordered = sorted((bucket_of(key.wallet_id), key) for key in set(keys))
    rows = await connection.fetch(
        SQL.load_operations,
        [bucket for bucket, _ in ordered],
        [key.wallet_id for _, key in ordered],
        [key.request_id for _, key in ordered],
    )
    operations, answers = {}, {}
    for row in rows:
        if row["wallet_id"] is None:
            continue
        key = OperationKey(row["wallet_id"], row["request_id"])
        is_final = row["state"] == "final"
        operations[key] = StoredOperation(row["fingerprint"], row["api_audit_id"], is_final)
        if is_final:
            answers[key] = Answer(row["status"], row["response"], replayed=True)
    return rows[0]["now"], operations, answers


async def load_credits(connection: "AnyConnection", terms: Sequence[TransferTerms]) -> dict[TransferId, CreditOutcome]:
    """The receivers' words that were given already."""
    rows = await connection.fetch(
        SQL.load_credits,
        [bucket_of(each.to_wallet_id) for each in terms],
        [each.to_wallet_id for each in terms],
        [each.transfer_id for each in terms],
    )
    return {row["transfer_id"]: credit_outcome_of(row) for row in rows}


def credit_outcome_of(row: Any) -> CreditOutcome:
    """A transfer_credits row as the receiver's word."""
    if row["outcome"] == "credited":
        return CreditAccepted(row["balance_after"], row["event_version"])
    return CreditRefused(row["reason"])


async def load_unfinished(connection: "AnyConnection", terms: Sequence[TransferTerms]) -> set[TransferId]:
    """Which of these transfers are still debited."""
    rows = await connection.fetch(
        SQL.load_unfinished,
        [bucket_of(each.from_wallet_id) for each in terms],
        [each.from_wallet_id for each in terms],
        [each.transfer_id for each in terms],
    )
    return {row["transfer_id"] for row in rows}


async def write_rows(connection: "AnyConnection", rows: BatchRows, now: datetime) -> None:
    """Operations, events, transfers and credits; raises WriteConflict where a count is not what was sent."""
    if rows.operations:
        await _insert_operations(connection, rows.operations, rows.batch_id)
    if rows.settled:
        await _settle_operations(connection, rows.settled, rows.batch_id)
    if rows.events:
        await _insert_events(connection, rows.events, rows.batch_id)
    if rows.transfers:
        await _insert_transfers(connection, rows.transfers, now)
    if rows.ended:
        await _end_transfers(connection, rows.ended, now)
    if rows.credits:
        await _insert_credits(connection, rows.credits, now)


async def _insert_operations(connection: "AnyConnection", rows: list[OperationRow], batch_id: BatchId) -> None:
    answers = [row.answer for row in rows]
    status = await connection.execute(
        SQL.insert_operations,
        [row.bucket for row in rows],
        [row.wallet_id for row in rows],
        [row.request_id for row in rows],
        [row.kind for row in rows],
        [row.fingerprint for row in rows],
        ["pending" if answer is None else "final" for answer in answers],
        [None if answer is None else answer.success for answer in answers],
        [None if answer is None else answer.status for answer in answers],
        [row.refusal for row in rows],
        [None if answer is None else answer.body for answer in answers],
        batch_id,
        [row.api_audit_id for row in rows],
    )
    _expect(status, len(rows))


async def _settle_operations(connection: "AnyConnection", rows: list[OperationRow], batch_id: BatchId) -> None:
    answers = [row.answer for row in rows if row.answer is not None]
    assert len(answers) == len(rows)
    status = await connection.execute(
        SQL.settle_operations,
        [row.bucket for row in rows],
        [row.wallet_id for row in rows],
        [row.request_id for row in rows],
        [answer.success for answer in answers],
        [answer.status for answer in answers],
        [row.refusal for row in rows],
        [answer.body for answer in answers],
        batch_id,
    )
    _expect(status, len(rows))


async def _insert_events(connection: "AnyConnection", events: list[DigestedEvent], batch_id: BatchId) -> None:
    placed = sorted(enumerate(events), key=lambda pair: (pair[1].bucket, pair[1].wallet_id, pair[1].version))
    rows = [event for _, event in placed]
    await connection.execute(
        SQL.insert_events,
        [row.bucket for row in rows],
        [row.wallet_id for row in rows],
        [row.version for row in rows],
        [row.event_id for row in rows],
        [row.type for row in rows],
        [row.amount for row in rows],
        [row.balance_after for row in rows],
        [_encode_payload(row.payload).decode() for row in rows],
        [row.transfer_id for row in rows],
        [ordinal for ordinal, _ in placed],
        [row.api_audit_id for row in rows],
        [row.occurred_at for row in rows],
        SCHEMA_VERSION,
        batch_id,
    )


async def _insert_transfers(connection: "AnyConnection", rows: list[TransferRow], now: datetime) -> None:
    await connection.execute(
        SQL.insert_transfers,
        [row.bucket for row in rows],
        [row.terms.from_wallet_id for row in rows],
        [row.terms.transfer_id for row in rows],
        [row.terms.to_wallet_id for row in rows],
        [row.terms.amount for row in rows],
        [row.terms.currency for row in rows],
        [row.status for row in rows],
        [row.request_id for row in rows],
        [row.api_audit_id for row in rows],
        now,
    )


async def _end_transfers(connection: "AnyConnection", rows: list[TransferRow], now: datetime) -> None:
    status = await connection.execute(
        SQL.end_transfers,
        [row.bucket for row in rows],
        [row.terms.from_wallet_id for row in rows],
        [row.terms.transfer_id for row in rows],
        [row.status for row in rows],
        [row.last_error for row in rows],
        now,
    )
    _expect(status, len(rows))


async def _insert_credits(connection: "AnyConnection", rows: list[CreditRow], now: datetime) -> None:
    accepted = [row.outcome if isinstance(row.outcome, CreditAccepted) else None for row in rows]
    await connection.execute(
        SQL.insert_credits,
        [row.bucket for row in rows],
        [row.terms.to_wallet_id for row in rows],
        [row.terms.transfer_id for row in rows],
        ["refused" if isinstance(row.outcome, CreditRefused) else "credited" for row in rows],
        [row.outcome.reason if isinstance(row.outcome, CreditRefused) else None for row in rows],
        [None if credit is None else credit.version for credit in accepted],
        [None if credit is None else credit.balance_after for credit in accepted],
        now,
    )


async def update_wallets(connection: "AnyConnection", before: dict[WalletId, Wallet], after: list[Wallet]) -> None:
    """Store the new states over exactly the versions that were locked; raises WriteConflict otherwise."""
    keyed = sorted(((bucket_of(wallet.wallet_id), wallet) for wallet in after), key=lambda k: (k[0], k[1].wallet_id))
    wallets = [wallet for _, wallet in keyed]
    status = await connection.execute(
        SQL.update_wallets,
        [bucket for bucket, _ in keyed],
        [wallet.wallet_id for wallet in wallets],
        [wallet.currency for wallet in wallets],
        [wallet.balance for wallet in wallets],
        [wallet.version for wallet in wallets],
        [wallet.last_event_at for wallet in wallets],
        [before[wallet.wallet_id].version for wallet in wallets],
    )
    _expect(status, len(wallets))


async def delete_unmade_wallets(connection: "AnyConnection", wallet_ids: Iterable[WalletId]) -> None:
    """Take back the rows that were inserted to be locked and that no event made real."""
    await connection.execute(SQL.delete_unmade_wallets, *_sorted_keys(wallet_ids))


async def insert_journal_row(connection: "AnyConnection", rows: BatchRows) -> None:
    """The batch's place in line: its seq is drawn here, after the locks."""
    await connection.execute(SQL.insert_journal_row, rows.batch_id, len(rows.events), rows.digest())


def _expect(status: str, count: int) -> None:
    """Compare PostgreSQL's command tag, such as `INSERT 0 3`, with what was sent."""
    if int(status.rsplit(" ", 1)[1]) != count:
        raise WriteConflict
