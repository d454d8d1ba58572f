"""The routes that move money: one command each, decided by the ledger."""

from collections.abc import Awaitable
from typing import Any, Final, TypeVar

import msgspec

from wallet.access.principal import Principal, Scope
from wallet.api.contract.bodies import read_command
from wallet.api.contract.commands import DEPOSIT, TRANSFER, WITHDRAW, CommandBody
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
from wallet.api.contract.route import ANY, WALLET_ID, Handler, Parameter, Route
from wallet.api.contract.schemas import JSON, MoveResponse, TransferResponse
from wallet.api.edge.exchange import Exchange
from wallet.api.edge.trail_records import trail_record_of
from wallet.api.services import Services
from wallet.domain.identifiers import ID_PATTERN
from wallet.domain.wallet import no_such_wallet
from wallet.ledger.requests import Answer, CommandFailed, NotExecuted, OutcomeUnknown

REPLAYED: Final = (("Idempotency-Replayed", "true"),)

Result = TypeVar("Result")


def _handler(body: CommandBody) -> Handler:
    """The handler of a command's own route."""

    async def execute(services: Services, exchange: Exchange) -> Reply:
        command = read_command(exchange, body)
        if not exchange.principal.may_use(command.key.wallet_id):
            exchange.request_id = command.request_id
            raise Refused(Code.WALLET_NOT_FOUND, no_such_wallet(command.key.wallet_id))
        # Stored before the ledger is called: a 503 must name the key to retry with, also to a client that sent no key.
        key = exchange.request_id = command.request_id
        exchange.has_reached_ledger = True
        answer = await outcome_of(
            services.ledger.execute(command, trail_record_of(exchange)),
            retry=f"Retry with key {key}; it takes effect at most once.",
            retry_to_learn=f"Retry with key {key} to learn which; it takes effect at most once.",
        )
        exchange.is_recorded = True
        return Reply(
            shown_answer(exchange.principal, answer).body,
            JSON if answer.success else CONTENT_TYPE,
            answer.status,
            REPLAYED if answer.replayed else (),
        )

    return execute


def shown_answer(principal: Principal, answer: Answer) -> Answer:
    """Returns an answer without the receiver's balance, unless the principal may read the receiver's wallet."""
    if principal.may_read_all or not answer.success or b'"toBalance":' not in answer.body:
        return answer
    body = msgspec.json.decode(answer.body)
    if principal.may_read(body["toWalletId"]):
        return answer
    return msgspec.structs.replace(answer, body=msgspec.json.encode(body | {"toBalance": None}))


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
    # There is no example: Swagger UI would fill it in although the body has its own key.
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


def _route(body: CommandBody, *codes: Code, **described: Any) -> Route:
    """The route of a command, with the refusals that it has beside those of every command."""
    kind = body.command.kind
    return Route(
        method="POST",
        path=f"/wallet/{{id}}/{kind}",
        handler=_handler(body),
        access=Scope(kind),
        operation_id=kind,
        tag="money",
        summary=kind.capitalize(),
        parameters=(WALLET_ID, _KEY),
        request=body.request,
        status=201,
        headers=("Idempotency-Replayed",),
        codes=(*codes, *MOVE),
        **described,
    )


ROUTES: Final = (
    _route(
        DEPOSIT,
        Code.BALANCE_LIMIT_EXCEEDED,
        description="Adds an amount to a wallet. The first deposit creates the wallet.",
        request_examples=DEPOSIT_EXAMPLES,
        success="The amount was added.",
        response=MoveResponse,
        response_example=DEPOSITED,
    ),
    _route(
        WITHDRAW,
        Code.INSUFFICIENT_FUNDS,
        Code.WALLET_NOT_FOUND,
        description="Takes an amount from a wallet. The balance never goes below zero.",
        request_examples=WITHDRAW_EXAMPLES,
        success="The amount was taken.",
        response=MoveResponse,
        response_example=WITHDRAWN,
    ),
    _route(
        TRANSFER,
        Code.SAME_WALLET,
        Code.INSUFFICIENT_FUNDS,
        Code.BALANCE_LIMIT_EXCEEDED,
        Code.WALLET_NOT_FOUND,
        Code.TRANSFER_FAILED,
        description="Moves an amount to another wallet, which is created if it does not exist.",
        request_examples=TRANSFER_EXAMPLES,
        success="The transfer is complete.",
        response=TransferResponse,
        response_example=TRANSFERRED,
    ),
)
