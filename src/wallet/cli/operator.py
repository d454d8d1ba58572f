"""What commands that record a decision share: who decides, why, and the log file of the decisions."""

import os
import pwd
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Final

import typer

from wallet.cli.errands import CannotLog
from wallet.runtime.logs import logging_to
from wallet.runtime.settings import Settings

TEXT_CHARACTERS_MAX: Final = 500
"""Of a reason and of an actor's name."""


def checked_text(text: str | None) -> str | None:
    """A reason or a name as it is stored. Raises typer.BadParameter for an empty or over-long one."""
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
    """The name of the operating system's user."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"


@contextmanager
def decisions_logged(settings: Settings, name: str) -> Iterator[None]:
    """Write what an operator decided to a file of this name in LOG_DIR. Raises CannotLog."""
    with ExitStack() as stack:
        try:
            stack.enter_context(logging_to(settings, name, on_terminal=False))
        except OSError as error:
            raise CannotLog(f"LOG_DIR is {settings.log_dir}, where nothing can be written: {error.strerror}.") from None
        yield
