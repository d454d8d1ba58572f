"""The application of the command line. The processes register in `main.py`, all other commands in `commands/`."""

import importlib
import pkgutil
from enum import StrEnum
from typing import Final

import typer

from wallet.cli import commands

app: Final = typer.Typer(
    help="An event-driven wallet service: balances that are never wrong, and a log that proves it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Panel(StrEnum):
    """The groups of commands in the help."""

    SERVICE = "Run the service"
    OPERATION = "Operate it"
    DEVELOPMENT = "Develop with it and test it"


def load_commands() -> None:
    """Import every file in `commands/`. In the help the commands are in the order of their panels and file names."""
    for module in pkgutil.iter_modules(commands.__path__, f"{commands.__name__}."):
        importlib.import_module(module.name)
    panels = [str(panel) for panel in Panel]
    app.registered_commands.sort(key=lambda command: panels.index(str(command.rich_help_panel)))
