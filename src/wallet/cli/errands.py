"""How commands end: the exit codes, and the one table from what stops an errand to its message and its code."""

import asyncio
import errno
import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn, assert_never

import typer

from wallet.cli.database import NoDatabase
from wallet.cli.warn import print_warnings, unknown_setting_warnings
from wallet.dead_letters.letters import NoSuchLetter
from wallet.integrity.checks.heads import HeadsUnreadable
from wallet.postgres.errors import DATABASE_ERRORS, Cause, cause_of, sentence_about
from wallet.postgres.migrations import MigrationError
from wallet.postgres.session import NotMigrated
from wallet.rabbitmq.connection import BrokerUnavailable, InvalidBrokerAddress
from wallet.rabbitmq.publisher import NotPublished
from wallet.rabbitmq.topology import TopologyMismatch
from wallet.runtime.failpoints import InvalidFailpoints
from wallet.runtime.settings import InvalidSettings
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
    HeadsUnreadable,
    NoDatabase,
    NoSuchLetter,
    NotMigrated,
    TopologyMismatch,
)
_FAILED_CHECKS: Final = (MigrationError, UnknownEvents)
_BROKER_IS_AWAY: Final = (BrokerUnavailable, NotPublished)
_OUTPUT_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Of a file or terminal that stdout leads to; a connection has none of them."""


def run_errand(work: Callable[[], int], *, interrupted: str, when_away: str = "") -> int:
    """Run `work` and return its exit code; what stops it becomes one line on stderr and the code for it.

    `interrupted` says what Ctrl-C left behind, `when_away` what to know when a dependency could not be reached.
    """
    print_what_the_terminal_can()
    print_warnings(unknown_setting_warnings())
    try:
        code = work()
        sys.stdout.flush()
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
        if isinstance(error, OSError) and error.errno in _OUTPUT_ERRORS:
            _discard_output()
            return complain(f"The output can't be written: {error.strerror}. {when_away}".rstrip(), EXIT_FAILED)
        code = exit_code_of(error)
        return complain(_with(sentence_about(error), when_away if code == EXIT_UNREACHABLE else ""), code)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return complain(f"interrupted; {interrupted}", EXIT_INTERRUPTED)
    return code


def exit_code_of(error: BaseException) -> int:
    """Returns the exit code for one of DATABASE_ERRORS."""
    match cause := cause_of(error):
        case Cause.AWAY | Cause.BUSY:
            return EXIT_UNREACHABLE
        case Cause.REFUSED:
            return EXIT_WRONG_CALL
        case Cause.DAMAGED | Cause.FAILED:
            return EXIT_FAILED
        case _:
            assert_never(cause)


def _discard_output() -> None:
    """What is still buffered can't be written either; without this Python would try at its end, and report it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def print_what_the_terminal_can() -> None:
    """From now on, print "?" for a sign such as "…" that the terminal's encoding lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


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
