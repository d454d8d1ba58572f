"""From a POST to a frozen command with every id it will ever need, or a refusal naming all that is wrong."""

import re
from decimal import Decimal
from typing import Final

from wallet.api.contract.bodies import ID_RULE, SAME_WALLET, Body, read_move_body, read_transfer_body
from wallet.api.contract.problems import Code, FieldError, Refused, refusal_of
from wallet.api.edge.exchange import Exchange
from wallet.domain.commands import Deposit, Transfer, Withdraw
from wallet.domain.identifiers import RequestId, TransferId, WalletId, is_id
from wallet.postgres.uuids import uuid7

_JSON: Final = re.compile(r'application/json(\s*;\s*charset="?utf-8"?)?\s*', re.ASCII | re.IGNORECASE)


def read_deposit(exchange: Exchange) -> Deposit:
    """The deposit that this request asks for."""
    wallet_id, request_id, amount = _read_move(exchange)
    return Deposit(wallet_id=wallet_id, request_id=request_id, api_audit_id=exchange.api_audit_id, amount=amount)


def read_withdraw(exchange: Exchange) -> Withdraw:
    """The withdrawal that this request asks for."""
    wallet_id, request_id, amount = _read_move(exchange)
    return Withdraw(wallet_id=wallet_id, request_id=request_id, api_audit_id=exchange.api_audit_id, amount=amount)


def read_transfer(exchange: Exchange) -> Transfer:
    """The transfer that this request asks for."""
    wallet_id = read_wallet_id(exchange)
    body = read_transfer_body(json_body(exchange))
    request_id = _resolve_key(exchange, body)
    if body.to_wallet_id == wallet_id:
        body.errors.append(SAME_WALLET)
    if body.errors or body.amount is None or body.to_wallet_id is None:
        raise refusal_of(body.errors)
    return Transfer(
        wallet_id=wallet_id,
        request_id=request_id,
        api_audit_id=exchange.api_audit_id,
        amount=body.amount,
        to_wallet_id=body.to_wallet_id,
        transfer_id=TransferId(uuid7()),
    )


def read_wallet_id(exchange: Exchange) -> WalletId:
    """The wallet that the path names, noted in the exchange."""
    path_id = exchange.path_values["id"]
    if not is_id(path_id):
        raise refusal_of([FieldError(Code.INVALID_REQUEST, ID_RULE, parameter="id")])
    exchange.wallet_id = WalletId(path_id)
    return exchange.wallet_id


def _read_move(exchange: Exchange) -> tuple[WalletId, RequestId, Decimal]:
    wallet_id = read_wallet_id(exchange)
    body = read_move_body(json_body(exchange))
    request_id = _resolve_key(exchange, body)
    if body.errors or body.amount is None:
        raise refusal_of(body.errors)
    return wallet_id, request_id, body.amount


def json_body(exchange: Exchange) -> bytes:
    """The bytes of a body that says it is JSON. Raises Refused (415) for one that does not."""
    content_type = exchange.headers.get("content-type")
    if content_type != "application/json" and (content_type is None or not _JSON.fullmatch(content_type)):
        raise Refused(
            Code.UNSUPPORTED_MEDIA_TYPE, "Send the body as JSON in UTF-8, with Content-Type: application/json."
        )
    if exchange.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(Code.UNSUPPORTED_MEDIA_TYPE, "Send the body as it is: no Content-Encoding is understood.")
    return exchange.body


def _resolve_key(exchange: Exchange, body: Body) -> RequestId:
    """The one key of the request: the body's, the header's, or a new one; noted in the exchange."""
    given = exchange.headers.get("idempotency-key")
    if given is not None:
        from_header = _unquoted(given)
        if not is_id(from_header):
            body.errors.append(FieldError(Code.INVALID_REQUEST, ID_RULE, header="Idempotency-Key"))
        elif body.request_id is None:
            body.request_id = RequestId(from_header)
        elif body.request_id != from_header:
            body.errors.append(
                FieldError(Code.INVALID_REQUEST, "differs from requestId in the body", header="Idempotency-Key")
            )
    exchange.request_id = body.request_id
    return body.request_id or RequestId(str(uuid7()))


def key_in_header(exchange: Exchange) -> RequestId | None:
    """The key in the Idempotency-Key header, if there is one and it is an id."""
    given = exchange.headers.get("idempotency-key")
    if given is None:
        return None
    key = _unquoted(given)
    return RequestId(key) if is_id(key) else None


def _unquoted(value: str) -> str:
    """The key inside the IETF draft's quoted string, or the value as it is; no id needs an escape."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return value[1:-1]
    return value
