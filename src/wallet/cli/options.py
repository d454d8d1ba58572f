"""Options that several commands share, the actor and reason of commands that record a decision, and the escaping of
external text for a terminal.
"""

import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Final

import typer

from wallet.cli.errands import CannotLog
from wallet.runtime.logs import logging_to
from wallet.runtime.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="For scripts: print one JSON object.")]
TEXT_CHARACTERS_MAX: Final = 500
"""The limit for a reason and for an actor's name."""


def between(least: int, most: int | None = None) -> Callable[[str], int]:
    """Returns the parser of a whole number within limits. Unlike `min` and `max` it keeps the help readable."""

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


def number_between(least: float, most: float) -> Callable[[str], float]:
    """Returns the parser of a number within limits."""

    def parse(value: str) -> float:
        number = duration(value)
        if not least <= number <= most:
            raise typer.BadParameter(f"{value} is not allowed: it must be at least {least:g} and at most {most:,.0f}.")
        return number

    return parse


def duration(value: str) -> float:
    """Parses a number of seconds or minutes, 0 or more."""
    try:
        number = float(value)
    except ValueError:
        raise typer.BadParameter(f"{value!r} is not a number.") from None
    # This form of the comparison also refuses NaN.
    if not 0 <= number < float("inf"):
        raise typer.BadParameter(f"{value} is not allowed: it must be a number of at least 0.")
    return number


def checked_text(text: str | None) -> str | None:
    """Returns a reason or a name as it is stored. Raises typer.BadParameter if it is empty or too long."""
    if text is None:
        return None
    cleaned = text.encode(errors="replace").decode().strip()
    if not cleaned:
        raise typer.BadParameter("it must not be blank")
    if len(cleaned) > TEXT_CHARACTERS_MAX:
        raise typer.BadParameter(f"it has {len(cleaned)} characters; at most {TEXT_CHARACTERS_MAX} are kept")
    return cleaned


Actor = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Who does this; the user of the operating system by default.", callback=checked_text
    ),
]


def user_of_this_process() -> str:
    """Returns the name of the operating system's user."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"


@contextmanager
def decisions_logged(settings: Settings, name: str) -> Iterator[None]:
    """Write an operator's decisions to a file with this name in LOG_DIR. Raises CannotLog."""
    with ExitStack() as stack:
        try:
            stack.enter_context(logging_to(settings, name, on_terminal=False))
        except OSError as error:
            raise CannotLog(f"LOG_DIR is {settings.log_dir}, where nothing can be written: {error.strerror}.") from None
        yield


def printable(text: str) -> str:
    """Returns the text on one line; each character that is not a letter, symbol or space is escaped."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def clipped(text: str, characters_max: int) -> str:
    """Returns the text, or its beginning and an ellipsis."""
    return text if len(text) <= characters_max else f"{text[: characters_max - 1]}…"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
