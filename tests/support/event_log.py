"""A log that a test creates: events are decided by the domain's rules at times that the test chooses.

Each `commit` writes one batch: its events and its journal row in one transaction, as the ledger does. With
`sealed` (the default) the journal row has its position and is published, as the relay would leave it.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, Self
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from tests.support.database import connected
from wallet.domain.analytics import LoggedEvent
from wallet.domain.events import (
    SCHEMA_VERSION,
    Event,
    FundsWithdrawn,
    RecordedEvent,
    TransferTerms,
    payload_of,
    type_of,
)
from wallet.domain.identifiers import ApiAuditId, EventId, RequestId, TransferId, WalletId, bucket_of
from wallet.domain.transfer import CreditAccepted, begin, conclude, receive
from wallet.domain.wallet import DEFAULT_CURRENCY, Wallet, decide_deposit, initial, record
from wallet.postgres.connections import Connection
from wallet.rabbitmq.publisher import OutgoingMessage
from wallet.wire.envelope import StoredEvent, encode_envelope

START: Final = datetime(2026, 1, 1, tzinfo=UTC)

INSERT_EVENT: Final = """
insert into events (
    bucket, wallet_id, version, event_id, type, schema_version, amount, balance_after, payload, transfer_id,
    batch_id, ordinal, api_audit_id, occurred_at
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
"""
INSERT_JOURNAL: Final = "insert into journal (batch_id, event_count, digest) values ($1, $2, $3)"
SEAL: Final = """
update journal
set position = (select coalesce(max(position), 0) + 1 from journal), chain = $2, sealed_at = now(),
    published_at = now() + $3::integer * interval '1 second'
where batch_id = $1
returning position
"""


@dataclass(frozen=True, slots=True)
class Row:
    """An event as it will be stored."""

    event_id: UUID
    recorded: RecordedEvent

    def stored(self) -> StoredEvent:
        """Returns the event as the relay reads it."""
        recorded = self.recorded
        return StoredEvent(
            self.event_id,
            type_of(recorded.event),
            SCHEMA_VERSION,
            recorded.occurred_at,
            recorded.wallet_id,
            recorded.version,
            msgspec.json.encode(payload_of(recorded)).decode(),
        )

    def logged(self) -> LoggedEvent:
        """Returns the event as the worker reads it from the log."""
        recorded = self.recorded
        terms = getattr(recorded.event, "terms", None)
        return LoggedEvent(
            EventId(self.event_id),
            recorded.wallet_id,
            type_of(recorded.event),
            recorded.event.amount,
            recorded.occurred_at,
            terms.to_wallet_id if terms is not None else None,
        )

    def message(self, position: int = 1) -> OutgoingMessage:
        """Returns the message that the relay would publish for the event."""
        stored = self.stored()
        return OutgoingMessage(encode_envelope(stored, position), str(self.event_id), stored.type)


class Log:
    """Wallets and their events. Only `commit` and the inserts need a connection."""

    def __init__(self, connection: Connection | None = None) -> None:
        self._connection = connection
        self._wallets: dict[WalletId, Wallet] = {}
        self.pending: list[Row] = []
        self.rows: list[Row] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, database_url: str) -> AsyncIterator[Self]:
        """Yields a log with a new connection, and closes the connection at the end."""
        async with connected(database_url) as connection:
            yield cls(connection)

    def deposit(self, wallet_id: str, amount: int | str = 1_000_000, *, at: float = 0) -> None:
        """Add a deposit, `at` seconds after START; the first one creates the wallet."""
        decided = decide_deposit(self._wallet(wallet_id), _money(amount))
        assert isinstance(decided, tuple)
        self._append(wallet_id, decided, at)

    def withdraw(self, wallet_id: str, amount: int | str = 1, *, at: float = 0) -> None:
        """Add a withdrawal; the balance must be sufficient."""
        self._append(wallet_id, (FundsWithdrawn(_money(amount)),), at)

    def transfer(self, from_wallet_id: str, to_wallet_id: str, amount: int | str = 1, *, at: float = 0) -> None:
        """Add a transfer with all its steps, as in one batch of the ledger."""
        sender, receiver = self._wallet(from_wallet_id), self._wallet(to_wallet_id)
        terms = TransferTerms(
            TransferId(uuid7()), sender.wallet_id, receiver.wallet_id, _money(amount), DEFAULT_CURRENCY
        )
        begun, received = begin(sender, terms), receive(receiver, terms)
        assert isinstance(begun, tuple)
        assert isinstance(received, tuple)
        self._append(from_wallet_id, begun, at)
        self._append(to_wallet_id, received, at)
        self._append(from_wallet_id, conclude(terms, CreditAccepted(terms.amount, 1)), at)

    async def commit(
        self,
        *,
        sealed: bool = True,
        confirmed: bool = True,
        event_count: int | None = None,
        keep: int | None = None,
    ) -> list[Row]:
        """Write the pending events as one batch, published either with a broker that confirmed it or without a broker.

        With `keep`, only this many events are written, as if the others were not visible yet.
        """
        assert self._connection is not None
        rows, self.pending = self.pending, []
        batch_id = uuid7()
        async with self._connection.transaction():
            await self.insert_events(rows[:keep], batch_id)
            count = len(rows) if event_count is None else event_count
            await self._connection.execute(INSERT_JOURNAL, batch_id, count, bytes(32))
            if sealed:
                await self._connection.fetchval(SEAL, batch_id, bytes(32), int(confirmed))
        self.rows += rows
        self.batch_id = batch_id
        return rows

    async def commit_newer(self, row: Row, *, event_type: str, schema_version: int) -> None:
        """Write one event as a newer program would, with a type or a schema version that is unknown to this program."""
        assert self._connection is not None
        batch_id = uuid7()
        columns = list(_columns(row, batch_id, 0))
        columns[4:6] = [event_type, schema_version]
        async with self._connection.transaction():
            await self._connection.execute(INSERT_EVENT, *columns)
            await self._connection.execute(INSERT_JOURNAL, batch_id, 1, bytes(32))
            await self._connection.fetchval(SEAL, batch_id, bytes(32), 1)

    async def insert_events(self, rows: Sequence[Row], batch_id: UUID, *, first_ordinal: int = 0) -> None:
        """Insert events without a journal row."""
        assert self._connection is not None
        await self._connection.executemany(
            INSERT_EVENT, [_columns(row, batch_id, ordinal) for ordinal, row in enumerate(rows, start=first_ordinal)]
        )

    def _wallet(self, wallet_id: str) -> Wallet:
        return self._wallets.get(WalletId(wallet_id)) or initial(WalletId(wallet_id))

    def _append(self, wallet_id: str, events: Sequence[Event], at: float) -> None:
        wallet = self._wallet(wallet_id)
        for event in events:
            wallet, recorded = record(
                wallet,
                event,
                START + timedelta(seconds=at),
                request_id=RequestId(f"request-{len(self.pending)}"),
                api_audit_id=ApiAuditId(uuid7()),
            )
            self.pending.append(Row(uuid7(), recorded))
        self._wallets[wallet.wallet_id] = wallet


def _money(amount: int | str) -> Decimal:
    return Decimal(amount).quantize(Decimal("0.0001"))


def _columns(row: Row, batch_id: UUID, ordinal: int) -> tuple[object, ...]:
    stored, recorded = row.stored(), row.recorded
    return (
        bucket_of(recorded.wallet_id),
        recorded.wallet_id,
        recorded.version,
        row.event_id,
        stored.type,
        stored.schema_version,
        recorded.event.amount,
        recorded.balance_after,
        stored.payload_json,
        recorded.event.transfer_id,
        batch_id,
        ordinal,
        recorded.api_audit_id,
        recorded.occurred_at,
    )
