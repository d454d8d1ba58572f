"""One of the processes that write a log: `python -m benchmarks.making_rows ORDER`, see `benchmarks.loading`."""

import json
import random
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from itertools import islice
from typing import Any, Final
from uuid import UUID

import asyncpg
import uvloop

from wallet.api.contract.reply import render
from wallet.domain.batch import BatchState, Decided, decide_batch
from wallet.domain.commands import Command, Deposit, Transfer, Withdraw
from wallet.domain.events import SCHEMA_VERSION
from wallet.domain.identifiers import NO_WALLET_BUCKET, ApiAuditId, RequestId, TransferId, WalletId, bucket_of
from wallet.domain.outcomes import Transferred
from wallet.domain.wallet import Wallet
from wallet.ledger.statements import event_row_of
from wallet.postgres.statements import uuid7
from wallet.wire.digest import DigestedEvent, DigestedOperation, digest_of, serialize_event

SEALED_COMMANDS: Final = 1_000
"""The size of a batch of the sealed part: that of a full batch of the ledger, because large batches load faster."""
WAITING_COMMANDS: Final = 30
"""The size of a batch of the waiting part: about the size that 64 clients cause."""
SEALED_STEP: Final = timedelta(milliseconds=1)
WAITING_STEP: Final = timedelta(milliseconds=600)
"""The time between two batches in `occurred_at`. With this step a wallet seldom has three withdrawals in a minute."""
BATCHES_A_COPY: Final = 20

DEPOSIT: Final = Decimal("1000000.0000")
SMALL: Final = Decimal("12.5000")
LARGE_WITHDRAWAL: Final = Decimal("10000.0000")
LARGE_EVERY: Final = 100
MIX: Final = "dwdtdwdtdw"
"""Ten commands that cause sixteen events: deposits, withdrawals, and transfers, each of which causes four."""
MIX_EVENTS: Final = 16

NOTHING: Final = sha256(b"").digest()

COLUMNS: Final = {
    "events": "bucket wallet_id version event_id type schema_version amount balance_after payload transfer_id batch_id"
    " ordinal api_audit_id occurred_at",
    "operations": "bucket wallet_id request_id kind fingerprint state success status refusal response batch_id"
    " api_audit_id",
    "transfers": "bucket from_wallet_id transfer_id to_wallet_id amount currency status request_id api_audit_id"
    " created_at updated_at",
    "api_audit": "bucket api_audit_id method url body body_length body_sha256 headers client_ip status timestamp",
    "wallets": "bucket wallet_id currency balance version last_event_at",
}

Records = list[tuple[Any, ...]]


class Maker:
    """Writes the rows of every nth wallet, where n is `parts`; `batches` has the data for their journal rows."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        wallets = range(order["part"], order["wallet_count"], order["parts"])
        self._wallet_ids = [WalletId(f"{order['prefix']}{number}") for number in wallets]
        self._wallets: dict[WalletId, Wallet] = {}
        self._time = datetime.fromisoformat(order["started_at"])
        self._draw = random.Random(order["part"])
        self._audit_id = ApiAuditId(uuid7())
        self._tables: dict[str, Records] = {name: [] for name in COLUMNS}
        self.batches: list[tuple[str, int, str, str, bool]] = []

    async def run(self) -> None:
        """Writes all tables except the journal."""
        connection = await asyncpg.connect(self._order["url"])
        try:
            sealed, waiting = self._sealed_commands(), self._waiting_commands()
            await self._write(connection, sealed, SEALED_COMMANDS, SEALED_STEP, is_sealed=True)
            await self._write(connection, waiting, WAITING_COMMANDS, WAITING_STEP, is_sealed=False)
            self._tables["wallets"] = [
                (bucket_of(wallet_id), wallet_id, each.currency, each.balance, each.version, each.last_event_at)
                for wallet_id, each in self._wallets.items()
            ]
            await self._copy(connection)
        finally:
            await connection.close()

    def _sealed_commands(self) -> Iterator[Command]:
        for number in range(self._order["deposits_per_wallet"]):
            for wallet_id in self._wallet_ids:
                yield Deposit(amount=DEPOSIT, **self._common(wallet_id, f"sealed-{number}"))

    def _waiting_commands(self) -> Iterator[Command]:
        for number in range(self._order["waiting_events"] // MIX_EVENTS // self._order["parts"]):
            for place, kind in enumerate(MIX):
                wallet_id, receiver = self._draw.sample(self._wallet_ids, 2)
                common = self._common(wallet_id, f"waiting-{number}-{place}")
                match kind:
                    case "d":
                        yield Deposit(amount=SMALL, **common)
                    case "w":
                        amount = SMALL if self._draw.randrange(LARGE_EVERY) else LARGE_WITHDRAWAL
                        yield Withdraw(amount=amount, **common)
                    case _:
                        transfer_id = TransferId(uuid7())
                        yield Transfer(amount=SMALL, to_wallet_id=receiver, transfer_id=transfer_id, **common)

    def _common(self, wallet_id: WalletId, key: str) -> dict[str, Any]:
        return {"wallet_id": wallet_id, "request_id": RequestId(key), "api_audit_id": self._audit_id}

    async def _write(
        self,
        connection: "asyncpg.Connection[asyncpg.Record]",
        commands: Iterator[Command],
        batch_size: int,
        step: timedelta,
        *,
        is_sealed: bool,
    ) -> None:
        while batch := list(islice(commands, batch_size)):
            self._time += step
            self._add_batch(batch, is_sealed=is_sealed)
            # One audit trail row per batch, as for a bulk request.
            self._audit_id = ApiAuditId(uuid7())
            if len(self.batches) % BATCHES_A_COPY == 0:
                await self._copy(connection)
        await self._copy(connection)

    def _add_batch(self, commands: list[Command], *, is_sealed: bool) -> None:
        state = BatchState(self._time, self._wallets, {})
        batch_id = uuid7()
        operations = []
        for command, decision in zip(commands, decide_batch(commands, state), strict=True):
            assert isinstance(decision, Decided)
            operations.append(_operation(command, decision))
            if isinstance(decision.outcome, Transferred):
                self._add_transfer(command, decision.outcome)
        events = [event_row_of(recorded) for recorded in state.events]
        self._tables["events"] += [_event_record(row, batch_id, ordinal) for ordinal, row in enumerate(events)]
        self._tables["operations"] += [_operation_record(row, batch_id) for row in operations]
        self._tables["api_audit"].append(
            (
                NO_WALLET_BUCKET,
                self._audit_id,
                "POST",
                "/operations",
                "",
                0,
                NOTHING,
                "{}",
                "127.0.0.1",
                200,
                self._time,
            )
        )
        digest = digest_of(map(serialize_event, events), operations).hex()
        self.batches.append((str(batch_id), len(events), digest, self._time.isoformat(), is_sealed))

    def _add_transfer(self, command: Command, outcome: Transferred) -> None:
        terms = outcome.terms
        wallets = (bucket_of(terms.from_wallet_id), terms.from_wallet_id, terms.transfer_id, terms.to_wallet_id)
        what = (terms.amount, terms.currency, "completed", command.request_id, command.api_audit_id)
        self._tables["transfers"].append((*wallets, *what, self._time, self._time))

    async def _copy(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        async with connection.transaction():
            for table, records in self._tables.items():
                if records:
                    await connection.copy_records_to_table(table, columns=COLUMNS[table].split(), records=records)
                    records.clear()


def _event_record(row: DigestedEvent, batch_id: UUID, ordinal: int) -> tuple[Any, ...]:
    place = (row.bucket, row.wallet_id, row.version, row.event_id, row.type, SCHEMA_VERSION)
    what = (row.amount, row.balance_after, row.payload.decode(), row.transfer_id)
    return (*place, *what, batch_id, ordinal, row.api_audit_id, row.occurred_at)


def _operation(command: Command, decision: Decided) -> DigestedOperation:
    answer = render(command.key, decision.outcome)
    assert answer.success, answer.body
    return DigestedOperation(
        bucket_of(command.wallet_id),
        command.wallet_id,
        command.request_id,
        command.kind,
        command.fingerprint,
        True,
        answer.status,
        None,
        answer.body,
        command.api_audit_id,
    )


def _operation_record(row: DigestedOperation, batch_id: UUID) -> tuple[Any, ...]:
    key = (row.bucket, row.wallet_id, row.request_id, row.kind, row.fingerprint)
    return (*key, "final", row.success, row.status, None, row.response, batch_id, row.api_audit_id)


def main(order: str) -> None:
    """Writes the rows that the order describes, and prints the data for their journal rows."""
    maker = Maker(json.loads(order))
    uvloop.run(maker.run())
    sys.stdout.write(json.dumps(maker.batches))


if __name__ == "__main__":
    main(sys.argv[1])
