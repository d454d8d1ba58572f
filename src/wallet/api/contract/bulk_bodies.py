"""Reading the body of a bulk request: the mode, and for each operation its command or all that is wrong with it.

The good path builds nothing but the command, as there are up to a thousand in one request. Only an operation that gives
none is read a second time, by the readers of the single routes, for the errors' words and places.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Final

from msgspec import structs

from wallet.api.contract.bodies import (
    ERRORS_MAX,
    ID_RULE,
    MOVE_FIELDS,
    SAME_WALLET,
    TRANSFER_FIELDS,
    Body,
    Reader,
    decode_object,
    read_fields,
    refuse_field,
    unknown_field,
)
from wallet.api.contract.problems import Code, FieldError, Refused, refusal_of
from wallet.api.contract.schemas import OPERATIONS_MAX
from wallet.domain.commands import Command, Deposit, Transfer, Withdraw
from wallet.domain.identifiers import ApiAuditId, RequestId, TransferId, WalletId, is_id
from wallet.domain.money import InvalidAmount, parse_amount
from wallet.ledger.answers import Answer
from wallet.postgres.uuids import uuid7

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
