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


def test_a_sum_that_would_need_rounding_raises() -> None:
    with pytest.raises(Inexact):
        add(Decimal("1e30"), Decimal("1e-30"))


def test_the_largest_balance_holds_a_hundred_of_the_largest_amounts() -> None:
    assert AMOUNT_MAX * 100 > BALANCE_MAX > AMOUNT_MAX * 99
