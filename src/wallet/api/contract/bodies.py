"""Reads the body of a POST: bytes → strict JSON → checked fields → commands, or a refusal that names everything wrong.

The standard decoder is used for its hooks: a number keeps the text it was written with, so money never passes through a
floating-point number, and a name given twice is refused instead of being silently dropped.

A bulk request has up to a thousand operations, so the path of a valid operation creates only the command. Only an
invalid operation is read a second time, by the readers of the single routes, to get the texts and paths of its errors.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from json import JSONDecodeError, JSONDecoder
from typing import Any, Final, Never

from msgspec import structs

from wallet.api.contract.commands import (
    BODIES,
    ID_RULE,
    OPERATIONS_MAX,
    REQUEST_ID,
    WALLET_ID,
    CommandBody,
    Field,
    InvalidField,
)
from wallet.api.contract.problems import Code, FieldError, Refused, refusal_of
from wallet.api.edge.exchange import Exchange
from wallet.domain.commands import Command
from wallet.domain.identifiers import ApiAuditId, RequestId, WalletId, is_id, matches_id
from wallet.domain.money import InvalidAmount
from wallet.ledger.requests import Answer
from wallet.postgres.statements import uuid7

NAME_LENGTH_SHOWN_MAX: Final = 64
ERRORS_MAX: Final = 20
"""How many errors are named; a body with thousands of unknown fields must not cause an answer of megabytes."""
VALUES_MAX: Final = 32_768
"""A bulk request of 1,000 operations has 5,000 values."""
_JSON: Final = re.compile(r'application/json(\s*;\s*charset="?utf-8"?)?\s*', re.ASCII | re.IGNORECASE)
OPERATION_ERRORS_MAX: Final = 5
"""How many errors of one operation are named; there can be a thousand operations in one answer."""
INDEPENDENT: Final = "independent"
ATOMIC: Final = "atomic"
BULK_FIELDS: Final = ("mode", "operations")
_REQUIRED: Final = "is required"
# For an operation of an unknown type: every field that an operation may have, and the fields that all must have.
_OF_ANY: Final = {name: known for body in reversed([*BODIES.values()]) for name, known in body.of_operation.items()}
_REQUIRED_OF_ANY: Final = [
    known for known in _OF_ANY.values() if all(known.name in body.of_operation for body in BODIES.values())
]


class NumberText(str):
    """A JSON number with its original spelling."""

    __slots__ = ()


@dataclass(slots=True)
class BodyReading:
    """The valid fields of a body, by the command's attributes, and everything that is wrong with it."""

    values: dict[str, Any] = field(default_factory=dict)
    errors: list[FieldError] = field(default_factory=list)


def read_body(raw: bytes, body: CommandBody) -> BodyReading:
    """Read the body of a command's own route. Raises Refused if it is not a JSON object."""
    return read_fields(decode_object(raw), body.of_route, required=body.required)


def decode_object(raw: bytes) -> dict[str, object]:
    """Decode a body that must be a JSON object: UTF-8, no name twice, no NaN, bounded nesting."""
    if raw.count(b",") + raw.count(b"{") + raw.count(b"[") > VALUES_MAX:
        # Decoding creates an object for each value, so a large body is refused first. Each comma and each beginning of
        # an object or array counts as a value; counting them costs a hundredth of decoding.
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
    fields: Mapping[str, Field],
    *,
    required: Iterable[Field],
    errors_max: int = ERRORS_MAX,
) -> BodyReading:
    """Read each field of a decoded object, and name everything that is wrong."""
    reading = BodyReading()
    for name, value in document.items():
        known = fields.get(name)
        if known is None:
            reading.errors.append(unknown_field(name, fields))
        else:
            try:
                reading.values[known.attribute] = known.read(value)
            except (InvalidField, InvalidAmount) as error:
                reading.errors.append(known.fault(str(error)))
        if len(reading.errors) == errors_max:
            return reading
    reading.errors.extend(each.fault(_REQUIRED) for each in required if each.name not in document)
    return reading


class _Malformed(ValueError):
    """The body breaks a rule that the standard decoder does not check; the message is for the client."""


def unknown_field(name: str, fields: Iterable[str]) -> FieldError:
    """Returns the error for a field that the request does not have."""
    shown = printable(name).replace("~", "~0").replace("/", "~1")
    return FieldError(
        Code.INVALID_REQUEST, f"is not a field of this request; known are {', '.join(fields)}", pointer=f"/{shown}"
    )


def printable(name: str) -> str:
    """Returns a printable form of a name: bounded, and without the lone surrogates that UTF-8 can't encode."""
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


def read_command(exchange: Exchange, body: CommandBody) -> Command:
    """Returns the command that a request to the command's own route asks for. Raises Refused."""
    wallet_id = read_wallet_id(exchange)
    reading = read_body(json_body(exchange), body)
    request_id = _resolve_key(exchange, reading)
    values = reading.values | {WALLET_ID.attribute: wallet_id, REQUEST_ID.attribute: request_id}
    fault = None if body.fault is None else body.fault(values)
    if fault is not None:
        reading.errors.append(fault)
    if reading.errors:
        raise refusal_of(reading.errors)
    return body.make(values, exchange.api_audit_id)


def read_wallet_id(exchange: Exchange) -> WalletId:
    """Returns the wallet that the path names, and stores it in the exchange."""
    path_id = exchange.path_values["id"]
    if not is_id(path_id):
        raise refusal_of([FieldError(Code.INVALID_REQUEST, ID_RULE, parameter="id")])
    exchange.wallet_id = WalletId(path_id)
    return exchange.wallet_id


def json_body(exchange: Exchange) -> bytes:
    """Returns the bytes of a body whose content type is JSON. Raises Refused (415) otherwise."""
    content_type = exchange.headers.get("content-type")
    if content_type != "application/json" and (content_type is None or not _JSON.fullmatch(content_type)):
        raise Refused(
            Code.UNSUPPORTED_MEDIA_TYPE, "Send the body as JSON in UTF-8, with Content-Type: application/json."
        )
    if exchange.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(Code.UNSUPPORTED_MEDIA_TYPE, "Send the body as it is: no Content-Encoding is understood.")
    return exchange.body


def _resolve_key(exchange: Exchange, reading: BodyReading) -> RequestId:
    """Returns the request's only key, from the body, from the header, or new, and stores it in the exchange."""
    given = exchange.headers.get("idempotency-key")
    in_body: RequestId | None = reading.values.get(REQUEST_ID.attribute)
    exchange.request_id = in_body
    if given is not None:
        from_header = _unquoted(given)
        if not is_id(from_header):
            reading.errors.append(FieldError(Code.INVALID_REQUEST, ID_RULE, header="Idempotency-Key"))
        elif in_body is None:
            exchange.request_id = RequestId(from_header)
        elif in_body != from_header:
            reading.errors.append(
                FieldError(Code.INVALID_REQUEST, "differs from requestId in the body", header="Idempotency-Key")
            )
    return exchange.request_id or RequestId(str(uuid7()))


def key_in_header(exchange: Exchange) -> RequestId | None:
    """Returns the key in the Idempotency-Key header if there is one and it is a valid id."""
    given = exchange.headers.get("idempotency-key")
    if given is None:
        return None
    key = _unquoted(given)
    return RequestId(key) if is_id(key) else None


def _unquoted(value: str) -> str:
    """Returns the key inside the IETF draft's quoted string, or the unchanged value; no id needs an escape."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return value[1:-1]
    return value


@dataclass(frozen=True, slots=True)
class BulkBody:
    """The decoded body of a bulk request; its operations are not read yet."""

    is_atomic: bool
    operations: Sequence[object]


def read_bulk_body(raw: bytes) -> BulkBody:
    """Read the fields around the operations. Raises Refused for everything that is wrong with them."""
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
        detail = f"must contain 1 to {OPERATIONS_MAX} operations, not {len(operations)}"
        errors.append(_invalid("/operations", detail))
    if errors or not isinstance(operations, list):
        raise refusal_of(errors)
    return BulkBody(mode == ATOMIC, operations)


def read_each(operations: Sequence[object], api_audit_id: ApiAuditId) -> list[Command | Answer]:
    """Returns each operation's command, or for an invalid operation the problem that its own route would return."""
    return [_command_of(operation, api_audit_id) or _answer_to_invalid(operation) for operation in operations]


def read_all(operations: Sequence[object], api_audit_id: ApiAuditId) -> list[Command]:
    """Returns the commands of all operations. Raises Refused if one is not valid, or a key occurs twice."""
    commands = [_command_of(operation, api_audit_id) for operation in operations]
    valid = [command for command in commands if command is not None]
    errors = _repeated_keys(valid) if len(valid) == len(commands) else _errors_of_all(operations, commands)
    if errors:
        raise refusal_of(errors)
    return valid


def _command_of(operation: object, api_audit_id: ApiAuditId) -> Command | None:
    """Returns the command of an operation whose fields are all valid, or None for any other."""
    if type(operation) is not dict:
        return None
    kind = operation.get("type")
    body = BODIES.get(kind) if type(kind) is str else None
    wallet_id, request_id = operation.get("walletId"), operation.get("requestId")
    if body is None or len(operation) != body.operation_field_count:
        return None
    # A number is a kind of text here and is not an id, hence the exact types.
    if not (type(wallet_id) is str and type(request_id) is str and matches_id(wallet_id) and matches_id(request_id)):
        return None
    values: dict[str, Any] = {"wallet_id": wallet_id, "request_id": request_id}
    try:
        for attribute, read, name in body.own_readers:
            values[attribute] = read(operation[name])
    except (KeyError, InvalidField, InvalidAmount):
        return None
    if body.fault is not None and body.fault(values) is not None:
        return None
    return body.make(values, api_audit_id)


def _answer_to_invalid(operation: object) -> Answer:
    if not isinstance(operation, dict):
        refused = Refused(Code.INVALID_REQUEST, "The operation must be a JSON object.", errors=(_NOT_AN_OBJECT,))
        return Answer(refused.status, refused.body(None))
    reading = _read_slowly(operation)
    refused = refusal_of(reading.errors)
    return Answer(refused.status, refused.body(reading.values.get(REQUEST_ID.attribute)))


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


def _read_slowly(operation: Mapping[str, object]) -> BodyReading:
    """Returns everything that is wrong with an operation that gave no command."""
    kind = operation.get("type")
    body = BODIES.get(kind) if type(kind) is str else None
    fields, required = (_OF_ANY, _REQUIRED_OF_ANY) if body is None else (body.of_operation, body.of_operation.values())
    reading = read_fields(operation, fields, required=required, errors_max=OPERATION_ERRORS_MAX)
    fault = None if body is None or body.fault is None else body.fault(reading.values)
    if fault is not None:
        reading.errors.append(fault)
    assert reading.errors, operation
    return reading


def _invalid(pointer: str, detail: str) -> FieldError:
    return FieldError(Code.INVALID_REQUEST, detail, pointer=pointer)


_NOT_AN_OBJECT: Final = _invalid("", "must be a JSON object")
