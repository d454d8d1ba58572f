"""The routes that move money: one command each, decided by the ledger."""

from collections.abc import Awaitable
from typing import Final, TypeVar

from wallet.api.contract.bodies import read_deposit, read_transfer, read_withdraw
from wallet.api.contract.examples import (
    DEPOSIT_EXAMPLES,
    DEPOSITED,
    TRANSFER_EXAMPLES,
    TRANSFERRED,
    WITHDRAW_EXAMPLES,
    WITHDRAWN,
)
from wallet.api.contract.problems import CONTENT_TYPE, NO_EFFECT, Code, Refused
from wallet.api.contract.reply import Reply
from wallet.api.contract.route import ANY, WALLET_ID, Parameter, Route
from wallet.api.contract.schemas import JSON, MoveRequest, MoveResponse, TransferRequest, TransferResponse
from wallet.api.edge.exchange import Exchange
from wallet.api.edge.trail_records import trail_record_of
from wallet.api.services import Services
from wallet.domain.commands import Command
from wallet.domain.identifiers import ID_PATTERN
from wallet.ledger.requests import CommandFailed, NotExecuted, OutcomeUnknown

REPLAYED: Final = (("Idempotency-Replayed", "true"),)

Result = TypeVar("Result")


async def deposit(services: Services, exchange: Exchange) -> Reply:
    """Add an amount to a wallet, which is created if it does not exist."""
    return await _execute(services, exchange, read_deposit(exchange))


async def withdraw(services: Services, exchange: Exchange) -> Reply:
    """Take an amount from a wallet."""
    return await _execute(services, exchange, read_withdraw(exchange))


async def transfer(services: Services, exchange: Exchange) -> Reply:
    """Move an amount to another wallet, which is created if it does not exist."""
    return await _execute(services, exchange, read_transfer(exchange))


async def _execute(services: Services, exchange: Exchange, command: Command) -> Reply:
    # Noted before the ledger is asked: a 503 must tell a client that sent no key the one to retry with.
    key = exchange.request_id = command.request_id
    exchange.has_reached_ledger = True
    answer = await outcome_of(
        services.ledger.execute(command, trail_record_of(exchange)),
        retry=f"Retry with key {key}; it takes effect at most once.",
        retry_to_learn=f"Retry with key {key} to learn which; it takes effect at most once.",
    )
    exchange.is_recorded = True
    return Reply(
        answer.body,
        JSON if answer.success else CONTENT_TYPE,
        answer.status,
        REPLAYED if answer.replayed else (),
    )


async def outcome_of(executing: Awaitable[Result], *, retry: str, retry_to_learn: str) -> Result:
    """Returns what the ledger answers. Raises Refused for its errors, with the advice that fits the request."""
    try:
        return await executing
    except NotExecuted as reason:
        raise Refused(Code.NOT_EXECUTED, f"{_sentence_of(reason)} {NO_EFFECT} {retry}") from None
    except OutcomeUnknown as reason:
        detail = f"{_sentence_of(reason)} It may or may not have taken effect. {retry_to_learn}"
        raise Refused(Code.OUTCOME_UNKNOWN, detail) from None
    except CommandFailed:
        detail = "Something went wrong on our side. It was logged, and this attempt was rolled back."
        raise Refused(Code.INTERNAL_ERROR, detail) from None


def _sentence_of(reason: Exception) -> str:
    return str(reason) or "The ledger gave no answer in time."


_KEY: Final = Parameter(
    "Idempotency-Key",
    "header",
    "The idempotency key, instead of `requestId` or equal to it; either bare or as a quoted string.",
    # Without an example: Swagger UI would fill it in beside a body that has a key of its own.
    {"type": "string", "pattern": f"^{ID_PATTERN}$"},
)
MOVE: Final = (
    Code.INVALID_AMOUNT,
    Code.INVALID_REQUEST,
    Code.INVALID_JSON,
    Code.INCOMPLETE_BODY,
    Code.REQUEST_TIMEOUT,
    Code.BODY_TOO_LARGE,
    Code.UNSUPPORTED_MEDIA_TYPE,
    Code.IDEMPOTENCY_KEY_REUSED,
    Code.NOT_EXECUTED,
    Code.OUTCOME_UNKNOWN,
    *ANY,
)
"""The refusals of every route that moves money."""

ROUTES: Final = (
    Route(
        method="POST",
        path="/wallet/{id}/deposit",
        handler=deposit,
        operation_id="deposit",
        tag="money",
        summary="Deposit",
        description="Adds an amount to a wallet. The first deposit creates the wallet.",
        parameters=(WALLET_ID, _KEY),
        request=MoveRequest,
        request_examples=DEPOSIT_EXAMPLES,
        status=201,
        success="The amount was added.",
        response=MoveResponse,
        response_example=DEPOSITED,
        headers=("Idempotency-Replayed",),
        codes=(Code.BALANCE_LIMIT_EXCEEDED, *MOVE),
    ),
    Route(
        method="POST",
        path="/wallet/{id}/withdraw",
        handler=withdraw,
        operation_id="withdraw",
        tag="money",
        summary="Withdraw",
        description="Takes an amount from a wallet. The balance never goes below zero.",
        parameters=(WALLET_ID, _KEY),
        request=MoveRequest,
        request_examples=WITHDRAW_EXAMPLES,
        status=201,
        success="The amount was taken.",
        response=MoveResponse,
        response_example=WITHDRAWN,
        headers=("Idempotency-Replayed",),
        codes=(Code.INSUFFICIENT_FUNDS, Code.WALLET_NOT_FOUND, *MOVE),
    ),
    Route(
        method="POST",
        path="/wallet/{id}/transfer",
        handler=transfer,
        operation_id="transfer",
        tag="money",
        summary="Transfer",
        description="Moves an amount to another wallet, which is created if it does not exist.",
        parameters=(WALLET_ID, _KEY),
        request=TransferRequest,
        request_examples=TRANSFER_EXAMPLES,
        status=201,
        success="The transfer is complete.",
        response=TransferResponse,
        response_example=TRANSFERRED,
        headers=("Idempotency-Replayed",),
        codes=(
            Code.SAME_WALLET,
            Code.INSUFFICIENT_FUNDS,
            Code.BALANCE_LIMIT_EXCEEDED,
            Code.WALLET_NOT_FOUND,
            Code.TRANSFER_FAILED,
            *MOVE,
        ),
    ),
)
