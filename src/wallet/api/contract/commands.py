"""Declares the commands as bodies of requests. Each declares its fields once: for its own route, bulk requests and
OpenAPI.

To add a kind of command, add an entry to BODIES here, its class in wallet.domain.commands, and its route.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Union
from uuid import UUID

import msgspec
from msgspec import Meta

from wallet.api.contract.problems import Code, FieldError
from wallet.api.contract.schemas import AMOUNT_SCHEMA, RequestIdText, WalletIdText
from wallet.domain.commands import Command, Deposit, Transfer, Withdraw
from wallet.domain.identifiers import ID_LENGTH_MAX, ApiAuditId, matches_id
from wallet.domain.money import parse_amount
from wallet.postgres.statements import uuid7

OPERATIONS_MAX: Final = 1000
"""How many operations a bulk request may have: it is one database transaction, for which other requests on its wallets
wait.
"""
ID_RULE: Final = f"must be 1 to {ID_LENGTH_MAX} characters of A-Z a-z 0-9 . _ : @ -, the first a letter or digit"
SAME_WALLET: Final = FieldError(Code.SAME_WALLET, "must be another wallet than the sender", pointer="/toWalletId")

AmountIn = Annotated[
    msgspec.Raw,
    Meta(
        description="A plain decimal, as a JSON number or a string: at most 4 decimals, greater than 0, at most "
        "10^14, no sign or exponent. Read exactly as it is spelled, never through a floating-point number.",
        examples=["100.50", 100],
        extra_json_schema=AMOUNT_SCHEMA,
    ),
]


class InvalidField(ValueError):
    """The value of a field breaks its rule; the message is for the client."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a body: its name in JSON, the command's attribute, its schema, and the code of its errors.

    `read` converts the decoded JSON value, in which numbers are texts. It raises InvalidField or InvalidAmount.
    """

    name: str
    attribute: str
    read: Callable[[object], object]
    schema: Any
    code: Code = Code.INVALID_REQUEST

    def fault(self, detail: str) -> FieldError:
        """Returns the error for this field of a body."""
        return FieldError(self.code, detail, pointer=f"/{self.name}")


def read_id(value: object) -> str:
    """Read a wallet id or a key. A number is a subclass of str here and not an id, so the exact type is checked."""
    if type(value) is str and matches_id(value):
        return value
    raise InvalidField(ID_RULE)


def _read_amount(value: object) -> object:
    if isinstance(value, str):
        return parse_amount(value)
    raise InvalidField('must be a JSON number or a decimal string, such as 100 or "100.25"')


def _read_type(value: object) -> str:
    if type(value) is str and value in BODIES:
        return value
    *kinds, last = (f'"{kind}"' for kind in BODIES)
    raise InvalidField(f"must be {', '.join(kinds)} or {last}")


TYPE: Final = Field("type", "type", _read_type, str)
WALLET_ID: Final = Field("walletId", "wallet_id", read_id, WalletIdText)
REQUEST_ID: Final = Field("requestId", "request_id", read_id, RequestIdText)
AMOUNT: Final = Field("amount", "amount", _read_amount, AmountIn, Code.INVALID_AMOUNT)
TO_WALLET_ID: Final = Field("toWalletId", "to_wallet_id", read_id, WalletIdText)


def _fault_of_same_wallet(values: Mapping[str, Any]) -> FieldError | None:
    receiver = values.get("to_wallet_id")
    return SAME_WALLET if receiver is not None and receiver == values.get("wallet_id") else None


@dataclass(frozen=True)
class CommandBody:
    """How a command is sent: `fields` are its own fields, in addition to its wallet and its key.

    `request` is the schema of its route's body, `meaning` the description of the operation in a bulk request. `fault`
    finds errors in a combination of fields that are each valid alone. `new_ids` creates the ids that a client does not
    send.
    """

    command: type[Command]
    fields: tuple[Field, ...]
    request: type[msgspec.Struct]
    meaning: str
    fault: Callable[[Mapping[str, Any]], FieldError | None] | None = None
    new_ids: tuple[tuple[str, Callable[[], UUID]], ...] = ()

    @property
    def required(self) -> Sequence[Field]:
        """Returns the fields that the body of its route must have; the key may be in a header, or be omitted."""
        return self.fields

    @cached_property
    def of_route(self) -> Mapping[str, Field]:
        """Returns the fields of its route's body by their names."""
        return _by_name(*self.fields, REQUEST_ID)

    @cached_property
    def of_operation(self) -> Mapping[str, Field]:
        """Returns the fields of an operation in a bulk request by their names; all are required."""
        return _by_name(TYPE, WALLET_ID, *self.fields, REQUEST_ID)

    @cached_property
    def own_readers(self) -> tuple[tuple[str, Callable[[object], object], str], ...]:
        """The command's attribute, its reader and its name in JSON, for each field of its own."""
        return tuple((each.attribute, each.read, each.name) for each in self.fields)

    @cached_property
    def operation_field_count(self) -> int:
        """How many fields an operation of this kind has."""
        return len(self.of_operation)

    @property
    def operation(self) -> type[msgspec.Struct]:
        """Returns the schema of an operation in a bulk request. Its key is required, so that the operation can be sent
        again.
        """
        name = f"{self.command.__name__}Operation"
        return _shape(name, self.meaning, *_required((WALLET_ID, *self.fields, REQUEST_ID)), tag=self.command.kind)

    def make(self, values: dict[str, Any], api_audit_id: ApiAuditId) -> Command:
        """Returns the command with these valid values and with new ids, which are added to `values`."""
        values["api_audit_id"] = api_audit_id
        for attribute, new_id in self.new_ids:
            values[attribute] = new_id()
        return self.command(**values)


def _by_name(*fields: Field) -> Mapping[str, Field]:
    return {each.name: each for each in fields}


def _required(fields: Sequence[Field]) -> list[tuple[str, Any]]:
    return [(each.attribute, each.schema) for each in fields]


def _shape(name: str, meaning: str, *fields: Any, tag: str | None = None) -> type[msgspec.Struct]:
    return msgspec.defstruct(
        name,
        fields,
        namespace={"__doc__": meaning},
        module=__name__,
        rename="camel",
        forbid_unknown_fields=True,
        tag_field=None if tag is None else "type",
        tag=tag,
    )


def _request(name: str, meaning: str, *fields: Field) -> type[msgspec.Struct]:
    key = (REQUEST_ID.attribute, REQUEST_ID.schema | msgspec.UnsetType, msgspec.UNSET)
    return _shape(name, meaning, *_required(fields), key)


_MOVE_REQUEST: Final = _request("MoveRequest", "A deposit or withdrawal.", AMOUNT)
DEPOSIT: Final = CommandBody(Deposit, (AMOUNT,), _MOVE_REQUEST, "A deposit, as part of a bulk request.")
WITHDRAW: Final = CommandBody(Withdraw, (AMOUNT,), _MOVE_REQUEST, "A withdrawal, as part of a bulk request.")
TRANSFER: Final = CommandBody(
    Transfer,
    (TO_WALLET_ID, AMOUNT),
    _request("TransferRequest", "A transfer; the sender is the wallet of the path.", TO_WALLET_ID, AMOUNT),
    "A transfer, as part of a bulk request; the sender is `walletId`.",
    fault=_fault_of_same_wallet,
    new_ids=(("transfer_id", uuid7),),
)
BODIES: Final[Mapping[str, CommandBody]] = {each.command.kind: each for each in (DEPOSIT, WITHDRAW, TRANSFER)}
"""The bodies by kind, in the order in which documents list them."""


_Operation: Any = Union[tuple(body.operation for body in BODIES.values())]  # noqa: UP007


class BulkRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Operations to run in order: each on its own, or all or none."""

    mode: Annotated[
        Literal["independent", "atomic"],
        Meta(description="independent: each operation has its own outcome. atomic: all take effect, or none does."),
    ]
    operations: Annotated[
        list[_Operation],
        Meta(min_length=1, max_length=OPERATIONS_MAX, description="They are run in this order."),
    ]
