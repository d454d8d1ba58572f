"""Money as exact decimals with four places; nothing here ever rounds."""

import re
from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from typing import Final

DECIMAL_PLACES: Final = 4
ZERO: Final = Decimal("0.0000")
AMOUNT_MAX: Final = Decimal("100000000000000.0000")
"""The largest amount of one command: 10^14."""
BALANCE_MAX: Final = Decimal("9999999999999999.9999")
"""The largest balance: what numeric(20,4) can hold."""

_QUANTUM: Final = Decimal("0.0001")
_AMOUNT: Final = re.compile(r"(0|[1-9][0-9]{0,14})(\.[0-9]{1,4})?", re.ASCII)
# 38 digits hold the sum of 10^22 of the largest amounts; more than that traps instead of rounding.
_EXACT: Final = Context(prec=38, traps=[Inexact, InvalidOperation, Overflow, DivisionByZero])


class InvalidAmount(ValueError):
    """The text is not an amount of money; the message says why and what would be one."""


def parse_amount(token: str) -> Decimal:
    """Read an amount from the raw text of a JSON number or string, without passing through a float.

    Accepts `0` or a number without leading zeros, at most 4 decimals, above 0 and at most 10^14.
    Raises InvalidAmount for everything else: signs, exponents, blanks, underscores, NaN, other scripts' digits.
    """
    if not _AMOUNT.fullmatch(token):
        raise InvalidAmount(
            "must be a plain decimal number such as 100 or 100.25: digits, at most 4 decimals, no sign or exponent"
        )
    amount = Decimal(token).quantize(_QUANTUM, context=_EXACT)
    if not amount:
        raise InvalidAmount("must be greater than 0")
    if amount > AMOUNT_MAX:
        raise InvalidAmount("must be at most 100000000000000 (10^14)")
    return amount


def add(left: Decimal, right: Decimal) -> Decimal:
    """The exact sum; a result that would need rounding raises decimal.Inexact."""
    return _EXACT.add(left, right)


def subtract(left: Decimal, right: Decimal) -> Decimal:
    """The exact difference; a result that would need rounding raises decimal.Inexact."""
    return _EXACT.subtract(left, right)


def format_money(value: Decimal) -> str:
    """Money as it leaves the service: a plain decimal string with 4 decimals, such as "100.0000"."""
    # Nearly all money has its four decimals already, and is then spelled so by `str`, five times as fast.
    return str(value) if value.same_quantum(_QUANTUM) else f"{value.quantize(_QUANTUM, context=_EXACT):f}"
