"""Bulk requests of a load: they contain many of a plan's requests, which are separate again in the history."""

import time
from collections.abc import Sequence

import msgspec

from wallet.stress.client import Client
from wallet.stress.exchanges import NoAnswer, ServiceAnswer, TriedRequest
from wallet.stress.operations import Operation, PlannedRequest

PATH = "/operations"
SUCCESS = 200


class Result(msgspec.Struct):
    """One operation's part of the answer, with the exact bytes of its body."""

    status: int
    replayed: bool
    body: msgspec.Raw


class Results(msgspec.Struct):
    """The answer of an independent bulk request."""

    results: list[Result]


async def send_bulk(client: Client, requests: Sequence[PlannedRequest]) -> list[TriedRequest]:
    """Send them as one until it is answered; a request that then has no definite answer is sent again alone."""
    sent_at_seconds = time.monotonic()
    tries = [_apart(attempt, len(requests)) for attempt in await client.ask("POST", PATH, _body(requests))]
    answered_at_seconds = time.monotonic()
    exchanges: list[TriedRequest] = []
    for request, *own in zip(requests, *tries, strict=True):
        exchange = TriedRequest(request, tuple(own), sent_at_seconds, answered_at_seconds)
        if exchange.answer is None:
            alone = await client.send(request)
            exchange = TriedRequest(request, (*own, *alone.tries), sent_at_seconds, alone.ended_at_seconds)
        exchanges.append(exchange)
    return exchanges


def _apart(attempt: ServiceAnswer | NoAnswer, count: int) -> list[ServiceAnswer | NoAnswer]:
    """Returns the answers to each of the requests in one attempt of the bulk request."""
    if isinstance(attempt, NoAnswer) or attempt.status != SUCCESS:
        return [attempt] * count
    return [
        ServiceAnswer(result.status, bytes(result.body), is_replayed=result.replayed, timing=attempt.timing)
        for result in _decode(attempt.body).results
    ]


def _body(requests: Sequence[PlannedRequest]) -> bytes:
    return _encode({"mode": "independent", "operations": [_operation(request.operation) for request in requests]})


def _operation(operation: Operation) -> dict[str, object]:
    fields: dict[str, object] = {
        "type": operation.kind,
        "walletId": operation.wallet_id,
        "amount": operation.amount,
        "requestId": operation.key,
    }
    return fields if operation.to_wallet_id is None else fields | {"toWalletId": operation.to_wallet_id}


_decode = msgspec.json.Decoder(Results).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode
