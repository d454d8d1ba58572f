"""The routes that move money: one command each, decided by the ledger."""

from collections.abc import Sequence
from typing import Final, Protocol

import falcon.asgi

from wallet.api.contract.problems import CONTENT_TYPE, Code, Refused
from wallet.api.contract.requests import read_deposit, read_transfer, read_withdraw
from wallet.api.contract.schemas import JSON
from wallet.api.edge.exchange import Exchange, exchange_of
from wallet.api.edge.trail_records import trail_record_of
from wallet.domain.commands import Command
from wallet.ledger.answers import Answer, BulkAnswer, CommandFailed, NotExecuted, OutcomeUnknown
from wallet.trail.records import TrailRecord

ROLLED_BACK: Final = "Something went wrong on our side. It was logged, and this attempt was rolled back."

NO_EFFECT: Final = (
    "This attempt had no effect. An attempt with the same key through another process, or before a restart, "
    "may still take effect."
)


class Executes(Protocol):
    """What the routes need of the ledger."""

    async def execute(self, command: Command, record: TrailRecord) -> Answer:
        """Bring a command to its end. Raises NotExecuted, OutcomeUnknown or CommandFailed."""
        ...

    async def execute_bulk(self, commands: Sequence[Command], record: TrailRecord, *, is_atomic: bool) -> BulkAnswer:
        """Bring the commands of one request to their end, in order. Raises what `execute` raises."""
        ...


class Deposits:
    """POST /wallet/{id}/deposit"""

    def __init__(self, ledger: Executes) -> None:
        self._ledger = ledger

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, wallet_id: str) -> None:
        """Add an amount to a wallet, which is made if it does not exist."""
        exchange = exchange_of(req.scope)
        await _execute(self._ledger, exchange, read_deposit(exchange, wallet_id), resp)


class Withdrawals:
    """POST /wallet/{id}/withdraw"""

    def __init__(self, ledger: Executes) -> None:
        self._ledger = ledger

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, wallet_id: str) -> None:
        """Take an amount from a wallet."""
        exchange = exchange_of(req.scope)
        await _execute(self._ledger, exchange, read_withdraw(exchange, wallet_id), resp)


class Transfers:
    """POST /wallet/{id}/transfer"""

    def __init__(self, ledger: Executes) -> None:
        self._ledger = ledger

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, wallet_id: str) -> None:
        """Move an amount to another wallet, which is made if it does not exist."""
        exchange = exchange_of(req.scope)
        await _execute(self._ledger, exchange, read_transfer(exchange, wallet_id), resp)


async def _execute(ledger: Executes, exchange: Exchange, command: Command, resp: falcon.asgi.Response) -> None:
    # Noted before the ledger is asked: a 503 must tell a client that sent no key the one to retry with.
    exchange.request_id = command.request_id
    try:
        answer = await ledger.execute(command, trail_record_of(exchange))
    except NotExecuted as reason:
        raise Refused(
            Code.NOT_EXECUTED,
            f"{sentence_of(reason)} {NO_EFFECT} Retry with key {command.request_id}; it takes effect at most once.",
        ) from None
    except OutcomeUnknown as reason:
        raise Refused(
            Code.OUTCOME_UNKNOWN,
            f"{sentence_of(reason)} It may or may not have taken effect. "
            f"Retry with key {command.request_id} to learn which; it takes effect at most once.",
        ) from None
    except CommandFailed:
        raise Refused(Code.INTERNAL_ERROR, ROLLED_BACK) from None
    exchange.is_recorded = True
    resp.status = answer.status
    resp.data = answer.body
    resp.content_type = JSON if answer.success else CONTENT_TYPE
    if answer.replayed:
        resp.set_header("Idempotency-Replayed", "true")


def sentence_of(reason: Exception) -> str:
    """The sentence of the ledger's error, or of its class."""
    return str(reason) or "The ledger gave no answer in time."
