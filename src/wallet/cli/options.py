"""Options that several commands have, and the numbers that options take."""

from collections.abc import Callable
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="For scripts: print one JSON object.")]


def between(least: int, most: int | None = None) -> Callable[[str], int]:
    """The parser of a whole number within limits. Unlike `min` and `max` it leaves help readable."""

    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            raise typer.BadParameter(f"{value!r} is not a whole number.") from None
        if number < least or (most is not None and number > most):
            upper = "" if most is None else f" and at most {most:,}"
            raise typer.BadParameter(f"{value} is not allowed: it must be at least {least:,}{upper}.")
        return number

    return parse


def duration(value: str) -> float:
    """Parses a number of seconds or minutes, 0 or more."""
    try:
        number = float(value)
    except ValueError:
        raise typer.BadParameter(f"{value!r} is not a number.") from None
    # Written so that NaN is refused too.
    if not 0 <= number < float("inf"):
        raise typer.BadParameter(f"{value} is not allowed: it must be a number of at least 0.")
    return number
