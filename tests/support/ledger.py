"""A running ledger for a test, and short functions that send it commands."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from hashlib import sha256
from typing import Any

import msgspec
from uuid_utils.compat import uuid7

from wallet.api.contract.reply import RENDER
from wallet.domain.commands import Command, Deposit, Transfer, Withdraw
from wallet.domain.identifiers import ApiAuditId, RequestId, TransferId, WalletId
from wallet.ledger.ledger import Ledger
from wallet.ledger.requests import Answer, BulkAnswer
from wallet.postgres.connections import open_pool
from wallet.runtime.addresses import client_of
from wallet.trail.records import TrailRecord

CLOCK_DIFFERENCE_MAX_SECONDS = 60.0


def audit_of(command: Command) -> TrailRecord:
    """Returns the audit trail record that the edge would have created for a command."""
    return TrailRecord(
        api_audit_id=command.api_audit_id,
        method="POST",
        url=f"/wallet/{command.wallet_id}/{type(command).__name__.lower()}",
        body="{}",
        body_length=2,
        body_sha256=sha256(b"{}").digest(),
        headers_json="{}",
        client_ip="127.0.0.1",
        wallet_id=command.wallet_id,
        request_id=command.request_id,
    )


def deposit(wallet_id: str, amount: str | int, key: str | None = None) -> Deposit:
    """Returns a deposit command; without a key, it gets a new one."""
    return Deposit(**_common(wallet_id, amount, key))


def withdraw(wallet_id: str, amount: str | int, key: str | None = None) -> Withdraw:
    """Returns a withdraw command; without a key, it gets a new one."""
    return Withdraw(**_common(wallet_id, amount, key))


def transfer(wallet_id: str, to_wallet_id: str, amount: str | int, key: str | None = None) -> Transfer:
    """Returns a transfer command; without a key, it gets a new one."""
    common = _common(wallet_id, amount, key)
    return Transfer(**common, to_wallet_id=WalletId(to_wallet_id), transfer_id=TransferId(uuid7()))


def _common(wallet_id: str, amount: str | int, key: str | None) -> dict[str, Any]:
    return {
        "wallet_id": WalletId(wallet_id),
        "request_id": RequestId(key or str(uuid7())),
        "api_audit_id": ApiAuditId(uuid7()),
        "amount": Decimal(amount).quantize(Decimal("0.0001")),
    }


async def send(ledger: Ledger, command: Command) -> Answer:
    """Execute one command as a separate request."""
    return await ledger.execute(command, audit_of(command))


async def send_bulk(ledger: Ledger, commands: Sequence[Command], *, is_atomic: bool = False) -> BulkAnswer:
    """Execute commands as one request, with one audit trail record, whose id all of them have."""
    record = msgspec.structs.replace(
        audit_of(commands[0]), api_audit_id=uuid7(), wallet_id=None, request_id=None, url="/operations"
    )
    same = [msgspec.structs.replace(command, api_audit_id=record.api_audit_id) for command in commands]
    return await ledger.execute_bulk(same, record, client=client_of(record.client_ip), is_atomic=is_atomic)


@asynccontextmanager
async def running_ledger(
    database_url: str, *, is_stepwise: bool = False, deadline_seconds: float = 10.0
) -> AsyncIterator[Ledger]:
    """Yields a ledger with separate connections, and stops it in order at the end."""
    async with open_pool(database_url, application_name="test ledger", size_max=2) as pool:
        ledger = Ledger(
            database_url,
            pool,
            deadline_seconds=deadline_seconds,
            clock_difference_max_seconds=CLOCK_DIFFERENCE_MAX_SECONDS,
            is_stepwise=is_stepwise,
            render=RENDER,
        )
        running = asyncio.create_task(ledger.run())
        try:
            yield ledger
        finally:
            ledger.stop()
            await running
