"""Money: what is an amount, what is not, and that nothing is ever rounded."""

from decimal import Decimal, Inexact

import pytest

from wallet.domain.money import AMOUNT_MAX, BALANCE_MAX, InvalidAmount, add, format_money, parse_amount


@pytest.mark.parametrize(
    ("token", "amount"),
    [
        ("100", "100.0000"),
        ("100.0", "100.0000"),
        ("100.00", "100.0000"),
        ("0.0001", "0.0001"),
        ("0.1", "0.1000"),
        ("100000000000000", "100000000000000.0000"),
        ("99999999999999.9999", "99999999999999.9999"),
    ],
)
def test_a_plain_decimal_is_an_amount_with_four_places(token: str, amount: str) -> None:
    assert parse_amount(token) == Decimal(amount)
    assert format_money(parse_amount(token)) == amount


@pytest.mark.parametrize(
    "token",
    [
        "0", "0.0000", "-1", "+1", "1e3", "10e-1", "1E400", "NaN", "Infinity", "-0", "", " 12", "12 ", "12\n", "1_000",
        "01", "00.5", ".5", "5.", "1.00000", "0.00001", "1,5", "0x10", "٣", "１", "1.²", "100000000000000.0001",
        "100000000000001", "1000000000000000", "9" * 5000, "1." + "0" * 5000, "\x00", "1\x00",
    ],
)  # fmt: skip
def test_everything_else_is_refused_with_a_reason(token: str) -> None:
    with pytest.raises(InvalidAmount, match="must be"):
        parse_amount(token)


NO_NUMBER = "must be a plain decimal number such as 100 or 100.25: digits, and after a point at most 4 decimals"


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("99999999999999999", "must be at most 100000000000000 (10^14)"),
        ("100000000000000.0001", "must be at most 100000000000000 (10^14)"),
        ("9" * 5000, "must be at most 100000000000000 (10^14)"),
        ("1.00001", "must be given with at most 4 decimals, not 5"),
        ("1.00000", "must be given with at most 4 decimals, not 5"),
        ("99999999999999999.123456", "must be given with at most 4 decimals, not 6"),
        ("0.00001", "must be given with at most 4 decimals, not 5"),
        ("0", "must be greater than 0"),
        ("0.0000", "must be greater than 0"),
        ("-1", "must be greater than 0"),
        ("-0", "must be greater than 0"),
        ("-1.5", "must be greater than 0"),
        ("-99999999999999999", "must be greater than 0"),
        ("+1", "must be given without a sign, such as 100 or 100.25"),
        ("1e3", "must be given without an exponent, such as 100 or 100.25"),
        ("-1E3", "must be given without an exponent, such as 100 or 100.25"),
        ("10e-1", "must be given without an exponent, such as 100 or 100.25"),
        ("007", "must be given without leading zeros, such as 100 or 100.25"),
        (".5", NO_NUMBER),
        ("5.", NO_NUMBER),
        ("abc", NO_NUMBER),
        ("", NO_NUMBER),
        (" 12", NO_NUMBER),
        ("12\n", NO_NUMBER),
        ("1,000", NO_NUMBER),
        ("1_000", NO_NUMBER),
        ("NaN", NO_NUMBER),
        ("Infinity", NO_NUMBER),
        ("0x10", NO_NUMBER),
        ("٣", NO_NUMBER),
        ("1.²", NO_NUMBER),
    ],
)
def test_a_refusal_names_the_rule_that_is_broken(token: str, reason: str) -> None:
    with pytest.raises(InvalidAmount) as refused:
        parse_amount(token)
    assert str(refused.value) == reason


def test_a_sum_that_would_need_rounding_raises() -> None:
    with pytest.raises(Inexact):
        add(Decimal("1e30"), Decimal("1e-30"))


def test_the_largest_balance_holds_a_hundred_of_the_largest_amounts() -> None:
    assert AMOUNT_MAX * 100 > BALANCE_MAX > AMOUNT_MAX * 99
