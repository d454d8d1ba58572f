"""How commands begin and end: their warnings at the start, the exit codes, and the table that maps each error that ends
a command to its message and exit code.
"""

import asyncio
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, assert_never

import structlog
import typer

from wallet.access.store import CannotRotate, NoSuchKey
from wallet.cli.running_up import NoDatabase
from wallet.dead_letters.reading import NoSuchDeadLetter
from wallet.integrity.checks.heads import HeadsUnreadable
from wallet.postgres.errors import DATABASE_ERRORS, Cause, cause_of, sentence_about
from wallet.postgres.migrations import MigrationError
from wallet.postgres.session import NotMigrated
from wallet.rabbitmq.connection import BrokerUnavailable, InvalidBrokerAddress
from wallet.rabbitmq.publisher import NotPublished
from wallet.rabbitmq.topology import TopologyMismatch
from wallet.runtime.addresses import is_loopback
from wallet.runtime.failpoints import InvalidFailpoints
from wallet.runtime.settings import InvalidSettings, Settings, unknown_settings
from wallet.worker.rebuild import UnknownEvents

_log = structlog.get_logger("wallet.cli")
EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
"""A promise is broken, or a check failed."""
EXIT_WRONG_CALL: Final = 2
"""A wrong call or value; the same call fails again."""
EXIT_UNREACHABLE: Final = 3
"""A dependency can't be reached; the same call can succeed later."""
EXIT_INTERRUPTED: Final = 130
"""Ctrl-C; the code that shells use for it."""
_WRONG_SETTINGS: Final = (InvalidSettings, InvalidFailpoints, InvalidBrokerAddress)
_FAILED_CHECKS: Final = (MigrationError, UnknownEvents)
_BROKER_IS_AWAY: Final = (BrokerUnavailable, NotPublished)
_OUTPUT_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of the file or terminal that stdout leads to; a network connection has none of them."""


@dataclass(frozen=True, slots=True)
class StartWarning:
    """One warning: its event and fields for the log, and a sentence for a person."""

    event: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)


def warnings_about(settings: Settings, *, host: str | None = None) -> list[StartWarning]:
    """Returns all warnings; `host` is the address that the api listens on, if one is started."""
    return [*unknown_setting_warnings(), *_failpoints(settings), *_reachable(settings, host)]


def print_warnings(warnings: Sequence[StartWarning]) -> None:
    """Print each warning as one line on stderr."""
    for each in warnings:
        typer.echo(f"wallet: warning: {each.text}", err=True)


def log_warnings(warnings: Sequence[StartWarning]) -> None:
    """Log each warning as one event, and also print it on stderr unless the process is quiet."""
    for each in warnings:
        _log.warning(each.event, hint=each.text, **each.fields)


def unknown_setting_warnings() -> list[StartWarning]:
    """Returns warnings about unknown names in the settings file."""
    return list(_unknown_settings())


def _unknown_settings() -> Iterator[StartWarning]:
    for unknown in unknown_settings():
        meant = f"did you mean {unknown.nearest}?" if unknown.nearest else ".env.example lists all"
        yield StartWarning(
            "unknown_setting",
            f"{unknown.file}, line {unknown.line}: there is no setting {unknown.name}, so it is ignored; {meant}",
            {"file": unknown.file, "line": unknown.line, "setting": unknown.name, "nearest": unknown.nearest},
        )


def _failpoints(settings: Settings) -> Iterator[StartWarning]:
    if settings.wallet_failpoints.strip():
        yield StartWarning(
            "failpoints_set",
            f"WALLET_FAILPOINTS is set ({settings.wallet_failpoints}): this process fails on purpose, for tests only",
            {"failpoints": settings.wallet_failpoints},
        )


def _reachable(settings: Settings, host: str | None) -> Iterator[StartWarning]:
    if host is not None and settings.auth == "off" and not is_loopback(host):
        yield StartWarning(
            "listens_beyond_loopback",
            f"listening on {host} with AUTH=off: anyone who reaches this address can move money; keep it behind a "
            "proxy that authenticates, or use API keys (see `wallet key create`) with AUTH=auto",
            {"host": host},
        )


class CannotLog(Exception):
    """LOG_DIR can't be written to."""


_WRONG_CALLS: Final = (
    CannotLog,
    CannotRotate,
    HeadsUnreadable,
    NoDatabase,
    NoSuchDeadLetter,
    NoSuchKey,
    NotMigrated,
    TopologyMismatch,
)


def run_errand(work: Callable[[], int], *, interrupted: str, when_away: str = "") -> int:
    """Run `work` and return its exit code. An error that ends it becomes one line on stderr and the exit code for it.

    `interrupted` is the message for Ctrl-C: what was left behind. `when_away` is added if a dependency can't be
    reached.
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
    """Discard the buffered output, which can't be written either. Otherwise Python would try at exit and report the
    error.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def print_what_the_terminal_can() -> None:
    """From now on, print "?" for a character such as "…" that the terminal's encoding lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def complain(message: str, code: int) -> int:
    """Print why nothing more was done. Returns the code."""
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
