"""The bulk route: many operations in one request, each for itself or all as one.

Independent: what is not valid is answered here and goes no further; the rest goes to the ledger as one request, and the
results come back in the order of the operations. Atomic: the ledger sees it only when every operation is valid.

A result carries the body of its operation's own route to the byte, so the answer is joined from bytes, not encoded.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import falcon.asgi

from wallet.api.contract.bulk_bodies import read_all, read_bulk_body, read_each
from wallet.api.contract.problems import CONTENT_TYPE, Code, FieldError, Refused, refusal_of
from wallet.api.contract.requests import json_body
from wallet.api.contract.schemas import JSON
from wallet.api.edge.asgi import MayConcern
from wallet.api.edge.exchange import Exchange, exchange_of
from wallet.api.edge.trail_records import trail_record_of
from wallet.api.routes.movements import NO_EFFECT, ROLLED_BACK, Executes, sentence_of
from wallet.domain.commands import Command
from wallet.ledger.answers import Answer, BulkAnswer, CommandFailed, NotExecuted, OutcomeUnknown

DECODED_OF_A_CLIENT_MAX: Final = 4
"""Decoding a thousand operations takes milliseconds of the event loop: two that run and two that are ready suffice."""
SEND_AGAIN: Final = "Send the whole request again with the same keys; each operation takes effect at most once."


class _Decoding:
    """The bulk requests of one client: how many there are, and how many more may be decoded."""

    def __init__(self) -> None:
        self.request_count = 0
        self.turns = asyncio.Semaphore(DECODED_OF_A_CLIENT_MAX)


class Operations:
    """POST /operations"""

    def __init__(
        self, ledger: Executes, *, may_concern: MayConcern, deadline_seconds: float, is_stepwise: bool
    ) -> None:
        self._ledger = ledger
        self._may_concern = may_concern
        self._deadline_seconds = deadline_seconds
        self._is_stepwise = is_stepwise
        self._decoding: dict[str, _Decoding] = {}

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Run the operations, in order."""
        exchange = exchange_of(req.scope)
        _refuse_key_in_header(exchange)
        raw = json_body(exchange)
        async with self._turn_to_decode(exchange, raw):
            body = read_bulk_body(raw)
            if not body.is_atomic:
                await self._run_independent(exchange, body.operations, resp)
            elif self._is_stepwise:
                raise _atomic_not_available()
            else:
                await self._run_atomic(exchange, body.operations, resp)

    @asynccontextmanager
    async def _turn_to_decode(self, exchange: Exchange, raw: bytes) -> AsyncIterator[None]:
        """Wait until few requests of the client are decoded and not answered. Raises Refused after the deadline."""
        client = exchange.client_ip
        decoding = self._decoding.setdefault(client, _Decoding())
        decoding.request_count += 1
        try:
            try:
                async with asyncio.timeout(self._deadline_seconds):
                    await decoding.turns.acquire()
            except TimeoutError:
                readings = read_each(read_bulk_body(raw).operations, exchange.api_audit_id)
                keys = (each.key for each in readings if not isinstance(each, Answer))
                code = Code.OUTCOME_UNKNOWN if any(self._may_concern(*key) for key in keys) else Code.NOT_EXECUTED
                raise Refused(
                    code, f"The deadline passed before the request's turn came. {NO_EFFECT} {SEND_AGAIN}"
                ) from None
            try:
                yield
            finally:
                decoding.turns.release()
        finally:
            decoding.request_count -= 1
            if not decoding.request_count:
                self._decoding.pop(client, None)

    async def _run_independent(
        self, exchange: Exchange, operations: Sequence[object], resp: falcon.asgi.Response
    ) -> None:
        readings = read_each(operations, exchange.api_audit_id)
        commands = [reading for reading in readings if not isinstance(reading, Answer)]
        resp.content_type = JSON
        executed: Iterator[Answer] = iter(())
        # Where none is valid the ledger has nothing to do, and the edge writes the trail row.
        if commands:
            bulk = await self._execute(exchange, commands, resp, is_atomic=False)
            executed = iter(bulk.results)
        resp.data = joined(reading if isinstance(reading, Answer) else next(executed) for reading in readings)

    async def _run_atomic(self, exchange: Exchange, operations: Sequence[object], resp: falcon.asgi.Response) -> None:
        commands = read_all(operations, exchange.api_audit_id)
        bulk = await self._execute(exchange, commands, resp, is_atomic=True)
        resp.status = bulk.status
        resp.content_type = JSON if bulk.refusal is None else CONTENT_TYPE
        resp.data = joined(bulk.results) if bulk.refusal is None else bulk.refusal.body

    async def _execute(
        self, exchange: Exchange, commands: Sequence[Command], resp: falcon.asgi.Response, *, is_atomic: bool
    ) -> BulkAnswer:
        try:
            bulk = await self._ledger.execute_bulk(commands, trail_record_of(exchange), is_atomic=is_atomic)
        except NotExecuted as reason:
            raise Refused(
                Code.NOT_EXECUTED,
                f"{sentence_of(reason)} {NO_EFFECT} {SEND_AGAIN}",
            ) from None
        except OutcomeUnknown as reason:
            raise Refused(
                Code.OUTCOME_UNKNOWN,
                f"{sentence_of(reason)} It may or may not have taken effect. "
                "Send the whole request again to learn which; each operation takes effect at most once.",
            ) from None
        except CommandFailed:
            raise Refused(Code.INTERNAL_ERROR, ROLLED_BACK) from None
        exchange.is_recorded = True
        if bulk.replayed:
            resp.set_header("Idempotency-Replayed", "true")
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
