"""How commands end: the exit codes, and the one table from what stops an errand to its message and its code."""

import asyncio
import io
import json
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

import typer

from wallet.cli.database import NoDatabase
from wallet.cli.warn import print_warnings, unknown_setting_warnings
from wallet.dead_letters.letters import NoSuchLetter
from wallet.integrity.checks.heads import HeadsUnreadable
from wallet.integrity.snapshot import NotMigrated
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.postgres.migrations import MigrationError
from wallet.rabbitmq.connection import BrokerUnavailable, InvalidBrokerAddress
from wallet.rabbitmq.publisher import NotPublished
from wallet.rabbitmq.topology import TopologyMismatch
from wallet.runtime.failpoints import InvalidFailpoints
from wallet.runtime.settings import InvalidSettings
from wallet.worker.database import DatabaseNotMigrated
from wallet.worker.rebuild import UnknownEvents

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
"""A broken promise, or a check that failed."""
EXIT_WRONG_CALL: Final = 2
"""A wrong call or value; the same call fails again."""
EXIT_UNREACHABLE: Final = 3
"""A dependency can't be reached; the same call can succeed later."""
EXIT_INTERRUPTED: Final = 130
"""Ctrl-C; the code that shells use for it."""


class CannotLog(Exception):
    """LOG_DIR can't be written to."""


_WRONG_SETTINGS: Final = (InvalidSettings, InvalidFailpoints, InvalidBrokerAddress)
_WRONG_CALLS: Final = (
    CannotLog,
    DatabaseNotMigrated,
    HeadsUnreadable,
    NoDatabase,
    NoSuchLetter,
    NotMigrated,
    TopologyMismatch,
)
_FAILED_CHECKS: Final = (MigrationError, UnknownEvents)
_BROKER_IS_AWAY: Final = (BrokerUnavailable, NotPublished)


def run_errand(work: Callable[[], int], *, interrupted: str, when_away: str = "") -> int:
    """Run `work` and return its exit code; what stops it becomes one line on stderr and the code for it.

    `interrupted` says what Ctrl-C left behind, `when_away` what to know when a dependency could not be reached.
    """
    print_what_the_terminal_can()
    print_warnings(unknown_setting_warnings())
    try:
        return work()
    except _WRONG_SETTINGS as error:
        return complain(f"Wrong setting: {error}", EXIT_WRONG_CALL)
    except _WRONG_CALLS as error:
        return complain(str(error), EXIT_WRONG_CALL)
    except _FAILED_CHECKS as error:
        return complain(str(error), EXIT_FAILED)
    except _BROKER_IS_AWAY as error:
        return complain(_with(str(error), when_away), EXIT_UNREACHABLE)
    except BrokenPipeError:
        raise
    except DATABASE_ERRORS as error:
        return complain(_with(unreachable_database(error), when_away), EXIT_UNREACHABLE)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return complain(f"interrupted; {interrupted}", EXIT_INTERRUPTED)


def print_what_the_terminal_can() -> None:
    """From now on, print "?" for a sign such as "…" that the terminal's encoding lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def unreachable_database(error: BaseException) -> str:
    """Returns the sentence about a database that can't be used."""
    return f"The database can't be reached: {str(error) or type(error).__name__}"


def complain(message: str, code: int) -> int:
    """Print why nothing more was done; returns the code."""
    typer.echo(f"wallet: {message}", err=True)
    return code


def give_up(message: str, code: int = EXIT_WRONG_CALL) -> NoReturn:
    """Print why nothing more is done, and end the process."""
    sys.exit(complain(message, code))


def print_json(report: dict[str, Any]) -> None:
    """Print the report of a command that was called with --json: one object."""
    print(json.dumps(report, indent=2, ensure_ascii=False))


def _with(message: str, hint: str) -> str:
    return f"{message.rstrip('.')}. {hint}" if hint else message
