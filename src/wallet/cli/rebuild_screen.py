"""`wallet rebuild` as its user sees it: a line when it begins, and one that says what it did."""

import asyncio
import sys
from pathlib import Path
from typing import Final

import uvloop

from wallet.cli.database import NoDatabase, find_database
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.settings import InvalidSettings, load_settings
from wallet.worker.database import DatabaseNotMigrated
from wallet.worker.process import rules_of
from wallet.worker.rebuild import Rebuilt, UnknownEvents, rebuild

EXIT_DONE: Final = 0
EXIT_NOTHING_CHANGED: Final = 2


def rebuild_on_screen(data_dir: Path) -> int:
    """Rebuild and say what was made. Returns the exit code."""
    try:
        settings = load_settings()
        dsn = find_database(settings, data_dir)
        print("rebuilding statistics and fraud alerts from the log; workers wait until it is done", flush=True)
        rebuilt = uvloop.run(rebuild(dsn, rules_of(settings)))
    except (NoDatabase, InvalidSettings, DatabaseNotMigrated, UnknownEvents) as reason:
        return _give_up(str(reason))
    except DATABASE_ERRORS as error:
        return _give_up(f"The database failed: {str(error) or type(error).__name__}. It can be run again at any time.")
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _give_up("ended; nothing was changed")
    print(_told(rebuilt))
    return EXIT_DONE


def _told(rebuilt: Rebuilt) -> str:
    entered = f", {rebuilt.entered_count:,} of them not processed before" if rebuilt.entered_count else ""
    return (
        f"rebuilt {rebuilt.wallet_count:,} wallets' statistics and {rebuilt.alert_count:,} fraud alerts from "
        f"{rebuilt.event_count:,} events{entered}, in {rebuilt.seconds:.1f} s"
    )


def _give_up(message: str) -> int:
    print(f"wallet: {message}", file=sys.stderr)
    return EXIT_NOTHING_CHANGED
