"""Bodies are read exactly: what is taken, and everything that is refused with its reason."""

import json
from decimal import Decimal
from typing import get_args

import pytest

from wallet.api.contract.bodies import ERRORS_MAX, BodyReading, read_body
from wallet.api.contract.commands import BODIES, DEPOSIT, TRANSFER
from wallet.api.contract.problems import Code, Refused
from wallet.api.routes import movements
from wallet.domain.commands import Command

ARABIC_INDIC_TWELVE = "\u0661\u0662"
FULL_WIDTH_ONE = "\uff11"


def read_move_body(body: bytes) -> BodyReading:
    return read_body(body, DEPOSIT)


def errors_of(body: bytes) -> list[tuple[str | None, Code]]:
    return [(error.pointer, error.code) for error in read_move_body(body).errors]


@pytest.mark.parametrize("spelling", ["100", "100.0", "100.00", '"100"', '"100.0000"', '"\\u0031\\u0030\\u0030"'])
def test_one_amount_may_be_spelled_in_several_ways(spelling: str) -> None:
    body = read_move_body(f'{{"amount":{spelling}}}'.encode())
    assert body.values == {"amount": Decimal("100.0000")}
    assert body.errors == []


def test_the_smallest_and_the_largest_amount_are_taken() -> None:
    assert read_move_body(b'{"amount":0.0001}').values["amount"] == Decimal("0.0001")
    assert read_move_body(b'{"amount":100000000000000}').values["amount"] == Decimal(10**14)


@pytest.mark.parametrize(
    "spelling",
    [
        "0", "0.0", "-1", "-0", "10e-1", "1E2", "1e400", "1.00000", "0.00001", "100000000000000.0001", "1" * 5000,
        '"NaN"', '"Infinity"', '"-1"', '"+1"', '"1_000"', '" 12 "', '"12\\n"', '"1,000"', '""', '"0x10"', '"1e2"',
        '".5"', '"1."', '"007"', f'"{ARABIC_INDIC_TWELVE}"', f'"{FULL_WIDTH_ONE}"', '"' + "9" * 5000 + '"',
        '"1\\u0000"',
        "true", "false", "null", "[]", "{}", "[100]", '{"value": 1}',
    ],
)  # fmt: skip
def test_what_is_not_a_plain_positive_amount_is_refused(spelling: str) -> None:
    body = read_move_body(f'{{"amount":{spelling}}}'.encode())
    assert body.values == {}
    assert [(error.pointer, error.code) for error in body.errors] == [("/amount", Code.INVALID_AMOUNT)]


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b'{"amount":1', b'{"amount":}', b"{'amount':1}", b'{"amount":1,}', b'{"amount":1} x',
        b'{"amount":01}', b'{"amount":+1}', b'{"amount":.5}', b'{"amount":1.}', b'{"amount":"a\nb"}',
        b'{"amount":NaN}', b'{"amount":Infinity}', b'{"amount":-Infinity}',
        b'{"amount":1,"amount":2}', b'{"amount":1,"a":{"b":1,"b":1}}', b'{"amount":1,"\\u0061mount":1}',
        b'{"amount":"\xff"}', b'\xef\xbb\xbf{"amount":1}', '{"amount":1}'.encode("utf-16"),
        b"[" * 30_000, b'{"a":' * 10_000, b"[" * 30_000 + b"]" * 30_000,
    ],
)  # fmt: skip
def test_what_is_not_strict_json_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        read_move_body(body)
    assert refused.value.code is Code.INVALID_JSON


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null", b"true", b"[1,2]"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        read_move_body(body)
    assert refused.value.code is Code.INVALID_REQUEST


@pytest.mark.parametrize(
    "value",
    ["null", "1", "true", "[]", "{}", '""', '" a"', '"a b"', '"a/b"', '"-a"', '".a"', '"a\\u0000"', '"a\\n"',
     '"\\ud800"', '"\u0430lice"', '"' + "a" * 129 + '"'],
)  # fmt: skip
@pytest.mark.parametrize("name", ["requestId", "toWalletId"])
def test_an_id_that_breaks_the_rule_is_refused(name: str, value: str) -> None:
    document = {"amount": "1", "toWalletId": '"bob"', "requestId": '"key"', name: value}
    body = ",".join(f'"{key}":{text}' for key, text in document.items()).encode()
    errors = read_body(b"{" + body + b"}", TRANSFER).errors
    assert [(error.pointer, error.code) for error in errors] == [(f"/{name}", Code.INVALID_REQUEST)]


@pytest.mark.parametrize("text", ["a", "9", "A1._:@-z", "a" * 128, "user@example.com"])
def test_an_id_that_keeps_the_rule_is_taken(text: str) -> None:
    assert read_move_body(json.dumps({"amount": 1, "requestId": text}).encode()).values["request_id"] == text


def test_everything_wrong_is_named_at_once() -> None:
    assert errors_of(b'{"requestId":null,"Amount":1,"to/from~":1}') == [
        ("/requestId", Code.INVALID_REQUEST),
        ("/Amount", Code.INVALID_REQUEST),
        ("/to~1from~0", Code.INVALID_REQUEST),
        ("/amount", Code.INVALID_AMOUNT),
    ]


def test_a_receiver_is_not_a_field_of_a_deposit() -> None:
    assert errors_of(b'{"amount":1,"toWalletId":"bob"}') == [("/toWalletId", Code.INVALID_REQUEST)]


def test_thousands_of_unknown_fields_give_a_short_answer() -> None:
    errors = read_move_body(json.dumps({f"field-{number}": 1 for number in range(5000)}).encode()).errors
    assert len(errors) == ERRORS_MAX


def test_a_name_that_no_utf_8_can_carry_is_named_all_the_same() -> None:
    (error, *_) = read_move_body(b'{"\\ud800' + b"x" * 1000 + b'":1,"amount":1}').errors
    assert error.pointer is not None
    assert len(error.pointer.encode("utf-8")) < 100


def test_a_repeated_name_that_no_utf_8_can_carry_is_refused_with_words() -> None:
    with pytest.raises(Refused) as refused:
        read_move_body(b'{"\\ud800":1,"\\ud800":1}')
    assert b"twice" in refused.value.body(None)


def test_every_kind_of_command_has_a_body_whose_schema_has_its_fields() -> None:
    assert {body.command for body in BODIES.values()} == set(get_args(Command))
    for body in BODIES.values():
        assert set(body.request.__struct_encode_fields__) == set(body.of_route)


def test_every_kind_of_command_has_a_route() -> None:
    assert {route.path for route in movements.ROUTES} == {f"/wallet/{{id}}/{kind}" for kind in BODIES}
