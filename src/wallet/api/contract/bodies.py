"""Reads the body of a POST: bytes → strict JSON → checked fields → commands, or a refusal that names everything wrong.

The standard decoder is used for its hooks: a number keeps the text it was written with, so money never passes through a
floating-point number, and a name given twice is refused instead of being silently dropped.

A bulk request has up to a thousand operations, so the path of a valid operation builds nothing but the command. Only an
invalid operation is read a second time, by the readers of the single routes, to get the texts and places of its errors.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from json import JSONDecodeError, JSONDecoder
from typing import Final, Never

from msgspec import structs

from wallet.api.contract.problems import Code, FieldError, Refused, refusal_of
from wallet.api.contract.schemas import OPERATIONS_MAX
from wallet.api.edge.exchange import Exchange
from wallet.domain.commands import Command, Deposit, Transfer, Withdraw
from wallet.domain.identifiers import ID_LENGTH_MAX, ApiAuditId, RequestId, TransferId, WalletId, is_id
from wallet.domain.money import InvalidAmount, parse_amount
from wallet.ledger.requests import Answer
from wallet.postgres.statements import uuid7

NAME_LENGTH_SHOWN_MAX: Final = 64
ERRORS_MAX: Final = 20
"""How many errors are named; a body of thousands of unknown fields must not make an answer of megabytes."""
VALUES_MAX: Final = 32_768
"""A bulk request of 1,000 operations has 5,000 values."""
ID_RULE: Final = f"must be 1 to {ID_LENGTH_MAX} characters of A-Z a-z 0-9 . _ : @ -, the first a letter or digit"
SAME_WALLET: Final = FieldError(Code.SAME_WALLET, "must be another wallet than the sender", pointer="/toWalletId")


class NumberText(str):
    """A JSON number exactly as it was written."""

    __slots__ = ()


@dataclass(slots=True)
class Body:
    """The fields of a body; a field that is missing or wrong is None, and `errors` says why."""

    amount: Decimal | None = None
    request_id: RequestId | None = None
    to_wallet_id: WalletId | None = None
    errors: list[FieldError] = field(default_factory=list)


def read_move_body(raw: bytes) -> Body:
    """Read the body of a deposit or withdrawal. Raises Refused where it is not a JSON object at all."""
    return read_fields(decode_object(raw), MOVE_FIELDS, required=("amount",))


def read_transfer_body(raw: bytes) -> Body:
    """Read the body of a transfer. Raises Refused where it is not a JSON object at all."""
    return read_fields(decode_object(raw), TRANSFER_FIELDS, required=("toWalletId", "amount"))


def decode_object(raw: bytes) -> dict[str, object]:
    """Decode a body that must be a JSON object: UTF-8, no name twice, no NaN, no nesting without end."""
    if raw.count(b",") + raw.count(b"{") + raw.count(b"[") > VALUES_MAX:
        # Decoding creates an object for each value: a comma, or the beginning of an object or array, for each. Counting
        # first costs a hundredth of that.
        raise Refused(Code.INVALID_REQUEST, f"The body has more than {VALUES_MAX} values.")
    try:
        document = _decode(raw.decode("utf-8", "strict"))
    except UnicodeDecodeError as error:
        raise Refused(Code.INVALID_JSON, f"The body is not UTF-8: byte {error.start} is wrong.") from None
    except JSONDecodeError as error:
        raise Refused(Code.INVALID_JSON, f"The body is not JSON: {error.msg} at character {error.pos}.") from None
    except _Malformed as error:
        raise Refused(Code.INVALID_JSON, str(error)) from None
    except RecursionError:
        raise Refused(Code.INVALID_JSON, "The body is nested too deeply.") from None
    if not isinstance(document, dict):
        raise Refused(
            Code.INVALID_REQUEST,
            "The body must be a JSON object.",
            errors=(FieldError(Code.INVALID_REQUEST, "must be a JSON object", pointer=""),),
        )
    return document


def read_fields(
    document: Mapping[str, object],
    fields: Mapping[str, "Reader"],
    *,
    required: Sequence[str],
    errors_max: int = ERRORS_MAX,
) -> Body:
    """Read each field of an object that is decoded already, and name all that is wrong."""
    body = Body()
    for name, value in document.items():
        read = fields.get(name)
        if read is None:
            body.errors.append(unknown_field(name, fields))
        else:
            read(body, value)
        if len(body.errors) == errors_max:
            return body
    body.errors.extend(
        FieldError(_code_of(name), "is required", pointer=f"/{name}") for name in required if name not in document
    )
    return body


class _Malformed(ValueError):
    """The body breaks a rule that the standard decoder does not know; the message is for the client."""


def _read_amount(body: Body, value: object) -> None:
    if not isinstance(value, str):
        refuse_field(body, "amount", 'must be a JSON number or a decimal string, such as 100 or "100.25"')
        return
    try:
        body.amount = parse_amount(value)
    except InvalidAmount as error:
        refuse_field(body, "amount", str(error))


def _read_request_id(body: Body, value: object) -> None:
    if type(value) is str and is_id(value):
        body.request_id = RequestId(value)
    else:
        refuse_field(body, "requestId", ID_RULE)


def _read_to_wallet_id(body: Body, value: object) -> None:
    if type(value) is str and is_id(value):
        body.to_wallet_id = WalletId(value)
    else:
        refuse_field(body, "toWalletId", ID_RULE)


Reader = Callable[[Body, object], None]
MOVE_FIELDS: Final[Mapping[str, Reader]] = {"amount": _read_amount, "requestId": _read_request_id}
TRANSFER_FIELDS: Final[Mapping[str, Reader]] = {"toWalletId": _read_to_wallet_id, **MOVE_FIELDS}


def refuse_field(body: Body, name: str, detail: str) -> None:
    """Note what is wrong with a field."""
    body.errors.append(FieldError(_code_of(name), detail, pointer=f"/{name}"))


def _code_of(name: str) -> Code:
    return Code.INVALID_AMOUNT if name == "amount" else Code.INVALID_REQUEST


def unknown_field(name: str, fields: Iterable[str]) -> FieldError:
    """What is wrong with a field that the request does not have."""
    shown = printable(name).replace("~", "~0").replace("/", "~1")
    return FieldError(
        Code.INVALID_REQUEST, f"is not a field of this request; known are {', '.join(fields)}", pointer=f"/{shown}"
    )


def printable(name: str) -> str:
    """Returns a name as it can be shown: bounded, and without the lone surrogates that no UTF-8 can carry."""
    shown = name if len(name) <= NAME_LENGTH_SHOWN_MAX else name[:NAME_LENGTH_SHOWN_MAX] + "…"
    return shown.encode("utf-8", "replace").decode("utf-8")


def _object_of(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise _Malformed(f"The body gives the name {printable(twice)!r} twice in one object.")
    return result


def _refuse_constant(text: str) -> Never:
    raise _Malformed(f"The body contains {text}, which is not a JSON number.")


_decode: Final[Callable[[str], object]] = JSONDecoder(
    object_pairs_hook=_object_of, parse_float=NumberText, parse_int=NumberText, parse_constant=_refuse_constant
).decode


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


OPERATION_ERRORS_MAX: Final = 5
"""How many errors of one operation are named; there can be a thousand operations in one answer."""

INDEPENDENT: Final = "independent"
ATOMIC: Final = "atomic"
BULK_FIELDS: Final = ("mode", "operations")


@dataclass(frozen=True, slots=True)
class BulkBody:
    """The body of a bulk request: decoded, its operations not yet read."""

    is_atomic: bool
    operations: Sequence[object]


def read_bulk_body(raw: bytes) -> BulkBody:
    """Read what surrounds the operations. Raises Refused for all that is wrong with it."""
    document = decode_object(raw)
    unknown = (unknown_field(name, BULK_FIELDS) for name in document if name not in BULK_FIELDS)
    errors = list(islice(unknown, ERRORS_MAX))
    mode, operations = document.get("mode"), document.get("operations")
    if mode not in (INDEPENDENT, ATOMIC):
        errors.append(_invalid("/mode", f'must be "{INDEPENDENT}" or "{ATOMIC}"' if "mode" in document else _REQUIRED))
    if not isinstance(operations, list):
        detail = "must be an array of operations" if "operations" in document else _REQUIRED
        errors.append(_invalid("/operations", detail))
    elif not 1 <= len(operations) <= OPERATIONS_MAX:
        detail = f"must hold 1 to {OPERATIONS_MAX} operations, not {len(operations)}"
        errors.append(_invalid("/operations", detail))
    if errors or not isinstance(operations, list):
        raise refusal_of(errors)
    return BulkBody(mode == ATOMIC, operations)


def read_each(operations: Sequence[object], api_audit_id: ApiAuditId) -> list[Command | Answer]:
    """Each operation's command, or the answer of one that is not valid: the problem its own route would give."""
    return [_command_of(operation, api_audit_id) or _answer_to_invalid(operation) for operation in operations]


def read_all(operations: Sequence[object], api_audit_id: ApiAuditId) -> list[Command]:
    """The commands of all operations. Raises Refused where one is not valid, or a key is there twice."""
    commands = [_command_of(operation, api_audit_id) for operation in operations]
    valid = [command for command in commands if command is not None]
    errors = _repeated_keys(valid) if len(valid) == len(commands) else _errors_of_all(operations, commands)
    if errors:
        raise refusal_of(errors)
    return valid


def _command_of(operation: object, api_audit_id: ApiAuditId) -> Command | None:
    """The command of an operation that is right in every field; None for any other."""
    if type(operation) is not dict:
        return None
    kind, token = operation.get("type"), operation.get("amount")
    wallet_id, request_id = operation.get("walletId"), operation.get("requestId")
    # A number is a kind of text here, and neither an id nor a type; hence the exact types.
    if not (type(wallet_id) is str and type(request_id) is str and is_id(wallet_id) and is_id(request_id)):
        return None
    if type(kind) is not str or _FIELD_COUNTS.get(kind) != len(operation) or not isinstance(token, str):
        return None
    try:
        amount = parse_amount(token)
    except InvalidAmount:
        return None
    key = (WalletId(wallet_id), RequestId(request_id))
    if kind == "transfer":
        return _transfer_of(key, operation.get("toWalletId"), amount, api_audit_id)
    make = Deposit if kind == "deposit" else Withdraw
    return make(wallet_id=key[0], request_id=key[1], api_audit_id=api_audit_id, amount=amount)


def _transfer_of(
    key: tuple[WalletId, RequestId], to_wallet_id: object, amount: Decimal, api_audit_id: ApiAuditId
) -> Transfer | None:
    if type(to_wallet_id) is not str or not is_id(to_wallet_id) or to_wallet_id == key[0]:
        return None
    return Transfer(
        wallet_id=key[0],
        request_id=key[1],
        api_audit_id=api_audit_id,
        amount=amount,
        to_wallet_id=WalletId(to_wallet_id),
        transfer_id=TransferId(uuid7()),
    )


def _answer_to_invalid(operation: object) -> Answer:
    if not isinstance(operation, dict):
        refused = Refused(Code.INVALID_REQUEST, "The operation must be a JSON object.", errors=(_NOT_AN_OBJECT,))
        return Answer(refused.status, refused.body(None))
    body = _read_slowly(operation)
    refused = refusal_of(body.errors)
    return Answer(refused.status, refused.body(body.request_id))


def _errors_of_all(operations: Sequence[object], commands: Sequence[Command | None]) -> list[FieldError]:
    errors: list[FieldError] = []
    for index, (operation, command) in enumerate(zip(operations, commands, strict=True)):
        if command is None:
            wrong = _read_slowly(operation).errors if isinstance(operation, dict) else [_NOT_AN_OBJECT]
            errors.extend(structs.replace(error, pointer=f"/operations/{index}{error.pointer}") for error in wrong)
        if len(errors) >= ERRORS_MAX:
            break
    return errors[:ERRORS_MAX]


def _repeated_keys(commands: Sequence[Command]) -> list[FieldError]:
    first_uses: dict[tuple[WalletId, RequestId], int] = {}
    errors: list[FieldError] = []
    for index, command in enumerate(commands):
        first = first_uses.setdefault((command.wallet_id, command.request_id), index)
        if first != index and len(errors) < ERRORS_MAX:
            errors.append(_invalid(f"/operations/{index}/requestId", f"is the key of operation {first} already"))
    return errors


def _read_slowly(operation: Mapping[str, object]) -> Body:
    """All that is wrong with an operation that gave no command."""
    kind = operation.get("type")
    fields = FIELDS_OF_TYPE.get(kind, _FIELDS_OF_ANY) if type(kind) is str else _FIELDS_OF_ANY
    required = _REQUIRED_OF_ANY if fields is _FIELDS_OF_ANY else tuple(fields)
    body = read_fields(operation, fields, required=required, errors_max=OPERATION_ERRORS_MAX)
    if kind == "transfer" and body.to_wallet_id is not None and body.to_wallet_id == operation.get("walletId"):
        body.errors.append(SAME_WALLET)
    assert body.errors, operation
    return body


def _read_type(body: Body, value: object) -> None:
    if type(value) is not str or value not in FIELDS_OF_TYPE:
        refuse_field(body, "type", 'must be "deposit", "withdraw" or "transfer"')


def _read_wallet_id(body: Body, value: object) -> None:
    if not (type(value) is str and is_id(value)):
        refuse_field(body, "walletId", ID_RULE)


def _invalid(pointer: str, detail: str) -> FieldError:
    return FieldError(Code.INVALID_REQUEST, detail, pointer=pointer)


_REQUIRED: Final = "is required"
_NOT_AN_OBJECT: Final = _invalid("", "must be a JSON object")
_MOVE: Final[Mapping[str, Reader]] = {"type": _read_type, "walletId": _read_wallet_id, **MOVE_FIELDS}
_TRANSFER: Final[Mapping[str, Reader]] = {"type": _read_type, "walletId": _read_wallet_id, **TRANSFER_FIELDS}
FIELDS_OF_TYPE: Final = {"deposit": _MOVE, "withdraw": _MOVE, "transfer": _TRANSFER}
"""The fields of each type of operation, all of them required."""
_FIELD_COUNTS: Final = {kind: len(fields) for kind, fields in FIELDS_OF_TYPE.items()}
_FIELDS_OF_ANY: Final[Mapping[str, Reader]] = dict(_TRANSFER)
_REQUIRED_OF_ANY: Final = tuple(_MOVE)
