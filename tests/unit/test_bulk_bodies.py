"""Bulk requests are read exactly: the good ones to commands, and of the others all that is wrong, and where."""

import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet.api.contract.bodies import (
    BULK_FIELDS,
    ERRORS_MAX,
    OPERATION_ERRORS_MAX,
    read_all,
    read_bulk_body,
    read_each,
)
from wallet.api.contract.commands import BODIES, OPERATIONS_MAX, BulkRequest
from wallet.api.contract.problems import Code, Refused
from wallet.domain.commands import Command, Deposit, Transfer, Withdraw
from wallet.domain.identifiers import ApiAuditId
from wallet.ledger.requests import Answer

AUDIT_ID = ApiAuditId(UUID("01890a5d-ac96-774b-bcce-b302099a8057"))
DEPOSIT = {"type": "deposit", "walletId": "alice", "amount": "1.50", "requestId": "d"}
WITHDRAW = {"type": "withdraw", "walletId": "alice", "amount": "1.50", "requestId": "w"}
TRANSFER = {"type": "transfer", "walletId": "alice", "toWalletId": "bob", "amount": "1.50", "requestId": "t"}
VALID = [DEPOSIT, WITHDRAW, TRANSFER]

LEFT_OUT = object()
INVALID: list[tuple[dict[str, Any], list[tuple[str, Code]]]] = [
    ({"amount": 0}, [("/amount", Code.INVALID_AMOUNT)]),
    ({"amount": "1e2"}, [("/amount", Code.INVALID_AMOUNT)]),
    ({"amount": None}, [("/amount", Code.INVALID_AMOUNT)]),
    ({"amount": [1]}, [("/amount", Code.INVALID_AMOUNT)]),
    ({"amount": LEFT_OUT}, [("/amount", Code.INVALID_AMOUNT)]),
    ({"walletId": "a b"}, [("/walletId", Code.INVALID_REQUEST)]),
    ({"walletId": 7}, [("/walletId", Code.INVALID_REQUEST)]),
    ({"walletId": None}, [("/walletId", Code.INVALID_REQUEST)]),
    ({"walletId": LEFT_OUT}, [("/walletId", Code.INVALID_REQUEST)]),
    ({"requestId": "-x"}, [("/requestId", Code.INVALID_REQUEST)]),
    ({"requestId": 7}, [("/requestId", Code.INVALID_REQUEST)]),
    ({"requestId": LEFT_OUT}, [("/requestId", Code.INVALID_REQUEST)]),
    ({"type": LEFT_OUT}, [("/type", Code.INVALID_REQUEST)]),
    ({"type": "refund"}, [("/type", Code.INVALID_REQUEST)]),
    ({"type": None}, [("/type", Code.INVALID_REQUEST)]),
    ({"type": ["deposit"]}, [("/type", Code.INVALID_REQUEST)]),
    ({"type": 1}, [("/type", Code.INVALID_REQUEST)]),
    ({"extra": 1}, [("/extra", Code.INVALID_REQUEST)]),
    ({"Amount": 1}, [("/Amount", Code.INVALID_REQUEST)]),
    ({"amount": LEFT_OUT, "Amount": 1}, [("/Amount", Code.INVALID_REQUEST), ("/amount", Code.INVALID_AMOUNT)]),
]
INVALID_TRANSFERS: list[tuple[dict[str, Any], list[tuple[str, Code]]]] = [
    ({"toWalletId": "alice"}, [("/toWalletId", Code.SAME_WALLET)]),
    ({"toWalletId": LEFT_OUT}, [("/toWalletId", Code.INVALID_REQUEST)]),
    ({"toWalletId": None}, [("/toWalletId", Code.INVALID_REQUEST)]),
    ({"toWalletId": 7}, [("/toWalletId", Code.INVALID_REQUEST)]),
    ({"toWalletId": "a/b", "amount": -1}, [("/toWalletId", Code.INVALID_REQUEST), ("/amount", Code.INVALID_AMOUNT)]),
]


def body(operations: Any, mode: str = "independent") -> bytes:
    return json.dumps({"mode": mode, "operations": operations}).encode()


def each(*operations: Any) -> list[Command | Answer]:
    return read_each(read_bulk_body(body(operations)).operations, AUDIT_ID)


def every(*operations: Any) -> list[Command]:
    return read_all(read_bulk_body(body(operations, "atomic")).operations, AUDIT_ID)


def changed(operation: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (operation | change).items() if value is not LEFT_OUT}


def faults_of_body(raw: bytes) -> list[tuple[str | None, Code]]:
    with pytest.raises(Refused) as refused:
        read_bulk_body(raw)
    return [(error.pointer, error.code) for error in refused.value.errors]


def faults_of_all(*operations: Any) -> list[tuple[str | None, Code]]:
    with pytest.raises(Refused) as refused:
        every(*operations)
    return [(error.pointer, error.code) for error in refused.value.errors]


def faults_of(answer: Command | Answer) -> list[tuple[str, Code]]:
    assert isinstance(answer, Answer)
    problem = json.loads(answer.body)
    assert answer.status == problem["status"] == 400
    return [(error.get("pointer", ""), Code(error["code"])) for error in problem["errors"]]


@pytest.mark.parametrize("read", [each, every])
def test_every_type_of_operation_becomes_its_command(read: Any) -> None:
    deposit, withdraw, transfer = read(*VALID)
    shared: dict[str, Any] = {"wallet_id": "alice", "api_audit_id": AUDIT_ID, "amount": Decimal("1.5000")}
    receiver = {"to_wallet_id": "bob", "transfer_id": transfer.transfer_id}
    assert deposit == Deposit(**shared | {"request_id": "d"})
    assert withdraw == Withdraw(**shared | {"request_id": "w"})
    assert transfer == Transfer(**shared | {"request_id": "t"} | receiver)


def test_every_transfer_gets_an_id_of_its_own() -> None:
    commands = every(*(changed(TRANSFER, {"requestId": f"t{number}"}) for number in range(100)))
    ids = {command.transfer_id for command in commands if isinstance(command, Transfer)}
    assert len(ids) == 100


@pytest.mark.parametrize("spelling", ["0.0001", "100000000000000", "100000000000000.0000", '"0.1"', "12345678901.1234"])
def test_money_never_passes_through_a_float(spelling: str) -> None:
    raw = b'{"mode":"atomic","operations":[{"type":"deposit","walletId":"a","requestId":"k","amount":%b}]}'
    (command,) = read_all(read_bulk_body(raw % spelling.encode()).operations, AUDIT_ID)
    assert command.amount == Decimal(spelling.strip('"'))


@pytest.mark.parametrize("operation", VALID)
@pytest.mark.parametrize(("change", "faults"), INVALID)
def test_what_is_wrong_with_an_operation_is_named(
    operation: dict[str, Any], change: dict[str, Any], faults: list[tuple[str, Code]]
) -> None:
    wrong = changed(operation, change)
    assert faults_of(*each(wrong)) == faults
    assert faults_of_all(DEPOSIT, wrong) == [(f"/operations/1{pointer}", code) for pointer, code in faults]


@pytest.mark.parametrize(("change", "faults"), INVALID_TRANSFERS)
def test_what_is_wrong_with_a_receiver_is_named(change: dict[str, Any], faults: list[tuple[str, Code]]) -> None:
    wrong = changed(TRANSFER, change)
    assert faults_of(*each(wrong)) == faults
    assert faults_of_all(wrong) == [(f"/operations/0{pointer}", code) for pointer, code in faults]


@pytest.mark.parametrize("operation", [DEPOSIT, WITHDRAW])
def test_a_receiver_is_a_field_of_transfers_only(operation: dict[str, Any]) -> None:
    assert faults_of(*each(operation | {"toWalletId": "bob"})) == [("/toWalletId", Code.INVALID_REQUEST)]


@pytest.mark.parametrize("value", [None, 1, "deposit", [], True, [DEPOSIT]])
def test_an_operation_that_is_no_object_is_named(value: Any) -> None:
    assert faults_of(*each(value)) == [("", Code.INVALID_REQUEST)]
    assert faults_of_all(DEPOSIT, value) == [("/operations/1", Code.INVALID_REQUEST)]


def test_what_is_wrong_with_one_operation_leaves_the_others_as_they_are() -> None:
    first, wrong, last = each(DEPOSIT, changed(DEPOSIT, {"amount": 0}), TRANSFER)
    assert isinstance(first, Deposit)
    assert isinstance(wrong, Answer)
    assert json.loads(wrong.body)["requestId"] == "d"
    assert isinstance(last, Transfer)


def test_a_key_may_be_there_twice_only_where_each_operation_is_for_itself() -> None:
    again = changed(WITHDRAW, {"requestId": "d"})
    elsewhere = changed(DEPOSIT, {"walletId": "bob"})
    assert len(each(DEPOSIT, again)) == 2
    assert len(every(DEPOSIT, elsewhere)) == 2
    assert faults_of_all(DEPOSIT, elsewhere, again) == [("/operations/2/requestId", Code.INVALID_REQUEST)]


@pytest.mark.parametrize(
    ("raw", "faults"),
    [
        (b"{}", [("/mode", Code.INVALID_REQUEST), ("/operations", Code.INVALID_REQUEST)]),
        (b'{"mode":null,"operations":null}', [("/mode", Code.INVALID_REQUEST), ("/operations", Code.INVALID_REQUEST)]),
        (body([DEPOSIT], "both"), [("/mode", Code.INVALID_REQUEST)]),
        (body([DEPOSIT], "Atomic"), [("/mode", Code.INVALID_REQUEST)]),
        (b'{"mode":["atomic"],"operations":[1]}', [("/mode", Code.INVALID_REQUEST)]),
        (body([]), [("/operations", Code.INVALID_REQUEST)]),
        (body([DEPOSIT] * (OPERATIONS_MAX + 1)), [("/operations", Code.INVALID_REQUEST)]),
        (body(DEPOSIT), [("/operations", Code.INVALID_REQUEST)]),
        (body("deposit"), [("/operations", Code.INVALID_REQUEST)]),
        (b'{"mode":"atomic","operations":[1],"requestId":"k"}', [("/requestId", Code.INVALID_REQUEST)]),
        (b"[]", [("", Code.INVALID_REQUEST)]),
    ],
)
def test_what_is_wrong_around_the_operations_refuses_the_request(
    raw: bytes, faults: list[tuple[str | None, Code]]
) -> None:
    assert faults_of_body(raw) == faults


@pytest.mark.parametrize(
    "raw",
    [
        b"", b'{"mode":"atomic"', b'{"mode":"atomic","mode":"atomic","operations":[1]}',
        b'{"mode":"independent","operations":[{"type":"deposit","type":"deposit"}]}',
        b'{"mode":"independent","operations":[{"amount":NaN}]}', b'{"mode":"independent","operations":["\xff"]}',
        b'{"mode":"independent","operations":' + b"[" * 30_000,
    ],
)  # fmt: skip
def test_what_is_not_strict_json_refuses_the_request_in_either_mode(raw: bytes) -> None:
    with pytest.raises(Refused) as refused:
        read_bulk_body(raw)
    assert refused.value.code is Code.INVALID_JSON


def test_the_largest_request_is_read() -> None:
    assert len(each(*[DEPOSIT] * OPERATIONS_MAX)) == OPERATIONS_MAX


def test_thousands_of_errors_give_a_short_answer() -> None:
    many = {f"field-{number}": 1 for number in range(30)}
    assert len(faults_of_all(*[many] * OPERATIONS_MAX)) == ERRORS_MAX
    assert len(faults_of(*each(many))) == OPERATION_ERRORS_MAX
    assert len(faults_of_all(*[DEPOSIT] * OPERATIONS_MAX)) == ERRORS_MAX
    assert len(faults_of_body(json.dumps(many).encode())) == ERRORS_MAX + 2


def test_the_documented_fields_are_the_ones_that_are_read() -> None:
    assert set(BulkRequest.__struct_encode_fields__) == set(BULK_FIELDS)
    documented = {kind: {"type", *each.operation.__struct_encode_fields__} for kind, each in BODIES.items()}
    assert documented == {kind: set(each.of_operation) for kind, each in BODIES.items()}


@given(
    st.dictionaries(
        st.sampled_from(["type", "walletId", "toWalletId", "amount", "requestId", "extra"]),
        st.sampled_from(["deposit", "withdraw", "transfer", "alice", "bob", "1.5", 1, 7.5, None, True, "a b", [], {}]),
    )
)
def test_an_operation_gives_a_command_exactly_where_its_schema_says(operation: dict[str, Any]) -> None:
    """Compared with another reader, made from the documented types; what they leave open is added by hand."""
    (reading,) = each(operation)
    try:
        request = msgspec.json.decode(body([operation]), type=BulkRequest).operations[0]
    except msgspec.ValidationError:
        request = None
    ids = [operation.get(name, "ok") for name in ("walletId", "toWalletId", "requestId")]
    amount = operation.get("amount")
    is_right = (
        request is not None
        and "a b" not in ids
        and (amount == "1.5" or type(amount) in (int, float))
        and not (operation["type"] == "transfer" and ids[0] == ids[1])
    )
    assert isinstance(reading, Answer) != is_right
