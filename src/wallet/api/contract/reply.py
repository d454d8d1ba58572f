"""The answers of handlers: a reply as a value, which the edge sends, and the bytes of a movement's outcome.

The bytes of an outcome are stored with it, sent, and sent again for every retry.
"""

from datetime import UTC, datetime
from typing import Final, assert_never

import msgspec

from wallet.api.contract.problems import CODE_OF_REJECTION, KINDS, Code, problem_body
from wallet.api.contract.schemas import JSON, MoveResponse, TransferResponse
from wallet.domain.batch import ATOMIC
from wallet.domain.identifiers import OperationKey
from wallet.domain.money import format_money
from wallet.domain.outcomes import KeyReused, Moved, Outcome, Rejected, Transferred
from wallet.ledger.requests import Answer, Render

NO_STORE: Final = ("Cache-Control", "no-store")
_encode: Final = msgspec.json.Encoder().encode
CREATED: Final = 201


class Reply(msgspec.Struct, frozen=True):
    """The answer of a handler. A reply in pieces is sent so that the server copies one piece at a time."""

    body: bytes
    content_type: str = JSON
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    is_in_pieces: bool = False


def json_reply(shape: object, *, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """Returns the reply with a value that is true only at the moment when it is read."""
    return Reply(_encode(shape), headers=(*headers, NO_STORE))


def format_time(moment: datetime) -> str:
    """Returns a time in the format of all answers: RFC 3339, UTC, always six decimals of a second."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def render(key: OperationKey, outcome: Outcome) -> Answer:
    """Returns the answer to the operation with this key. A pure function, so running a command again gives the same
    bytes.
    """
    match outcome:
        case Moved():
            return Answer(CREATED, _moved_body(key, outcome))
        case Transferred():
            return Answer(CREATED, _transferred_body(key, outcome))
        case Rejected():
            return _problem(key, CODE_OF_REJECTION[outcome.reason], outcome.detail)
        case KeyReused():
            return _problem(key, Code.IDEMPOTENCY_KEY_REUSED, _reused_detail(key, outcome))
        case _:
            assert_never(outcome)


def render_atomic_refusal(key: OperationKey, index: int, outcome: Outcome) -> Answer:
    """Returns the answer to a whole atomic request of which this operation is the first refused; pure like `render`."""
    match outcome:
        case Rejected():
            detail = f"Operation {index}: {outcome.detail} No operation of this request took effect."
            return _problem(key, CODE_OF_REJECTION[outcome.reason], detail, index=index)
        case KeyReused():
            detail = f"Operation {index}: {_atomic_reused_detail(key, outcome)}"
            return _problem(key, Code.IDEMPOTENCY_KEY_REUSED, detail, index=index)
        case Moved() | Transferred():
            raise AssertionError(f"operation {index} was not refused: {outcome}")
        case _:
            assert_never(outcome)


def _moved_body(key: OperationKey, outcome: Moved) -> bytes:
    return _encode(MoveResponse(key.wallet_id, format_money(outcome.balance), key.request_id, outcome.created))


def _transferred_body(key: OperationKey, outcome: Transferred) -> bytes:
    terms = outcome.terms
    return _encode(
        TransferResponse(
            transfer_id=str(terms.transfer_id),
            from_wallet_id=terms.from_wallet_id,
            to_wallet_id=terms.to_wallet_id,
            amount=format_money(terms.amount),
            status="completed",
            request_id=key.request_id,
            from_balance=format_money(outcome.from_balance),
            to_balance=format_money(outcome.to_balance),
        )
    )


def _problem(key: OperationKey, code: Code, detail: str, *, index: int | None = None) -> Answer:
    return Answer(KINDS[code].status, problem_body(code, detail, request_id=key.request_id, index=index))


def _reused_detail(key: OperationKey, outcome: KeyReused) -> str:
    return (
        f"Wallet {key.wallet_id} has used this key {_use_of(outcome.stored_fingerprint)}. "
        "Use a new key for a new request; nothing moved."
    )


def _use_of(fingerprint: str) -> str:
    kind, amount, counterparty = fingerprint.split(":", 2)
    if kind == ATOMIC:
        return "in an atomic request"
    receiver = f" to {counterparty}" if counterparty else ""
    return f"for a {kind} of {amount}{receiver}"


def _atomic_reused_detail(key: OperationKey, outcome: KeyReused) -> str:
    if not outcome.stored_fingerprint:
        return (
            "Some keys of this request were used before and this one was not; "
            "send the request exactly as before, or with new keys. Nothing moved."
        )
    return (
        f"Wallet {key.wallet_id} has used this key {_use_of(outcome.stored_fingerprint)}, which is not this request. "
        "Send that request exactly as before, or this one with new keys; nothing moved."
    )


RENDER: Final = Render(render, render_atomic_refusal)
"""The functions with which the ledger creates answers."""
