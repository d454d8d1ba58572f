"""The bulk route: many operations in one request, independent or atomic.

Independent: an invalid operation is answered here and goes no further; the others go to the ledger as one request, and
the results are returned in the order of the operations. Atomic: the request goes to the ledger only if every operation
is valid.

A result contains the exact bytes of its operation's own route, so the answer is joined from bytes, not encoded.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from wallet.access.principal import Access, Principal, Scope
from wallet.api.contract.bodies import json_body, read_all, read_bulk_body, read_each
from wallet.api.contract.commands import BulkRequest
from wallet.api.contract.examples import BULK_DONE, BULK_EXAMPLES
from wallet.api.contract.problems import (
    CONTENT_TYPE,
    KINDS,
    NO_EFFECT,
    Code,
    FieldError,
    Refused,
    problem_body,
    refusal_of,
)
from wallet.api.contract.reply import Reply
from wallet.api.contract.route import Route
from wallet.api.contract.schemas import JSON, BulkResponse
from wallet.api.edge.exchange import Exchange
from wallet.api.edge.gate import lacks_scope
from wallet.api.edge.trail_records import trail_record_of
from wallet.api.routes.movements import MOVE, REPLAYED, outcome_of, shown_answer
from wallet.api.services import Services, TurnTooLate
from wallet.domain.commands import Command
from wallet.domain.wallet import no_such_wallet
from wallet.ledger.requests import Answer, BulkAnswer

SEND_AGAIN: Final = "Send the whole request again with the same keys; each operation takes effect at most once."


async def run_operations(services: Services, exchange: Exchange) -> Reply:
    """Run the operations, in order."""
    _refuse_key_in_header(exchange)
    raw = json_body(exchange)
    try:
        async with services.decoding_turns.turn(exchange.client):
            body = read_bulk_body(raw)
            if not body.is_atomic:
                return await _run_independent(services, exchange, body.operations)
            if services.is_stepwise:
                raise _atomic_not_available()
            return await _run_atomic(services, exchange, body.operations)
    except TurnTooLate:
        raise _turn_came_too_late(services, exchange, raw) from None


def _turn_came_too_late(services: Services, exchange: Exchange, raw: bytes) -> Refused:
    readings = read_each(read_bulk_body(raw).operations, exchange.api_audit_id)
    principal = exchange.principal
    keys = [each.key for each in readings if not isinstance(each, Answer) and _refusal_of(principal, each) is None]
    code = Code.OUTCOME_UNKNOWN if any(services.may_concern(*key) for key in keys) else Code.NOT_EXECUTED
    return Refused(code, f"The deadline passed before the request's turn came. {NO_EFFECT} {SEND_AGAIN}")


async def _run_independent(services: Services, exchange: Exchange, operations: Sequence[object]) -> Reply:
    principal = exchange.principal
    readings = [_permitted(principal, each) for each in read_each(operations, exchange.api_audit_id)]
    commands = [reading for reading in readings if not isinstance(reading, Answer)]
    executed: Iterator[Answer] = iter(())
    headers: tuple[tuple[str, str], ...] = ()
    # If no operation is valid, the ledger has nothing to do, and the edge writes the trail row.
    if commands:
        bulk = await _execute(services, exchange, commands, is_atomic=False)
        executed, headers = iter(bulk.results), REPLAYED if bulk.replayed else ()
    body = joined(
        shown_answer(principal, reading if isinstance(reading, Answer) else next(executed)) for reading in readings
    )
    return Reply(body, headers=headers)


async def _run_atomic(services: Services, exchange: Exchange, operations: Sequence[object]) -> Reply:
    commands = read_all(operations, exchange.api_audit_id)
    for index, command in enumerate(commands):
        if (refusal := _refusal_of(exchange.principal, command)) is not None:
            code, detail = refusal
            exchange.request_id = command.request_id
            raise Refused(code, f"Operation {index}: {detail} No operation of this request took effect.", index=index)
    bulk = await _execute(services, exchange, commands, is_atomic=True)
    headers = REPLAYED if bulk.replayed else ()
    if bulk.refusal is None:
        results = (shown_answer(exchange.principal, answer) for answer in bulk.results)
        return Reply(joined(results), JSON, bulk.status, headers)
    return Reply(bulk.refusal.body, CONTENT_TYPE, bulk.status, headers)


def _permitted(principal: Principal, reading: Command | Answer) -> Command | Answer:
    """Returns a command that the principal may execute, else the answer that its own route would return."""
    if isinstance(reading, Answer) or (refusal := _refusal_of(principal, reading)) is None:
        return reading
    code, detail = refusal
    return Answer(KINDS[code].status, problem_body(code, detail, request_id=reading.request_id))


def _refusal_of(principal: Principal, command: Command) -> tuple[Code, str] | None:
    scope = Scope(command.kind)
    if not principal.has(scope):
        return Code.FORBIDDEN, lacks_scope(scope)
    if not principal.may_use(command.key.wallet_id):
        return Code.WALLET_NOT_FOUND, no_such_wallet(command.key.wallet_id)
    return None


async def _execute(
    services: Services, exchange: Exchange, commands: Sequence[Command], *, is_atomic: bool
) -> BulkAnswer:
    exchange.has_reached_ledger = True
    bulk = await outcome_of(
        services.ledger.execute_bulk(commands, trail_record_of(exchange), client=exchange.client, is_atomic=is_atomic),
        retry=SEND_AGAIN,
        retry_to_learn="Send the whole request again to learn which; each operation takes effect at most once.",
    )
    exchange.is_recorded = True
    return bulk


def joined(results: Iterable[Answer]) -> bytes:
    """The answer's body: each result's status, whether it was replayed, and its own body as it is."""
    return b'{"results":[%b]}' % b",".join(
        [
            b'{"status":%d,"replayed":%b,"body":%b}' % (answer.status, _JSON_OF[answer.replayed], answer.body)
            for answer in results
        ]
    )


def _refuse_key_in_header(exchange: Exchange) -> None:
    """Refuse the key of a whole request: there is no such thing. The edge took it for the request's own."""
    exchange.request_id = None
    if "idempotency-key" in exchange.headers:
        detail = "is not taken by this route; each operation has its key in its own requestId"
        raise refusal_of([FieldError(Code.INVALID_REQUEST, detail, header="Idempotency-Key")])


def _atomic_not_available() -> Refused:
    return Refused(
        Code.ATOMIC_NOT_AVAILABLE,
        "This service runs transfers as separate steps (TRANSFER_MODE=stepwise), so several operations cannot take "
        'effect as one. Nothing moved. Use the mode "independent".',
    )


_JSON_OF: Final = (b"false", b"true")

_DESCRIPTION: Final = """\
Runs 1 to 1,000 operations in order. The body may have up to 1 MiB. Each operation has its key in `requestId`, with \
the same scope as on the operation's own route, so the whole request can be sent again safely.

**independent**: each operation has its own outcome. `results` lists the outcomes in the order of the operations, each \
with the status and body of the operation's own route; an invalid operation gets a 400 there. The answer as a whole is \
200.

**atomic**: all operations take effect, or none does. The first refusal is the answer to the whole request, with the \
position of the refused operation in `index`, and is stored for every key. Each key then stands for the whole request: \
a request that differs, or that mixes used and new keys, is answered 422. This mode is not available if \
`TRANSFER_MODE` is `stepwise`.

Two requests of one API key (without keys, of one client address) run at a time; further ones wait for their turn \
until the deadline. Single requests \
on the same wallets go before a request that waits.
"""

ROUTES: Final = (
    Route(
        method="POST",
        path="/operations",
        handler=run_operations,
        access=Access.ANY_KEY,
        has_bulk_body=True,
        operation_id="runOperations",
        tag="money",
        summary="Run many operations",
        description=_DESCRIPTION,
        request=BulkRequest,
        request_examples=BULK_EXAMPLES,
        success="The operations were run; each result is the outcome of one operation.",
        response=BulkResponse,
        response_example=BULK_DONE,
        headers=("Idempotency-Replayed",),
        codes=(
            Code.ATOMIC_NOT_AVAILABLE,
            Code.SAME_WALLET,
            Code.INSUFFICIENT_FUNDS,
            Code.BALANCE_LIMIT_EXCEEDED,
            Code.WALLET_NOT_FOUND,
            *MOVE,
        ),
    ),
)
