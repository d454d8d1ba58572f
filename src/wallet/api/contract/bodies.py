"""Reading a request's body: bytes → strict JSON → checked fields, with everything that is wrong named.

The standard decoder is used for its hooks: numbers keep the text they were written with, so that money never
passes through a floating-point number, and a name given twice is refused instead of being silently dropped.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from json import JSONDecodeError, JSONDecoder
from typing import Final, Never

from wallet.api.contract.problems import Code, FieldError, Refused
from wallet.domain.identifiers import ID_LENGTH_MAX, RequestId, WalletId, is_id
from wallet.domain.money import InvalidAmount, parse_amount

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
