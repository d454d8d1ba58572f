"""`wallet rebuild`: its options, and what each exit code means."""

import sys
from pathlib import Path
from typing import Any

import uvloop

from wallet.cli.app import Panel, app
from wallet.cli.errands import EXIT_DONE, print_json, run_errand
from wallet.cli.options import AsJson
from wallet.cli.running_up import DATA, DataDirectory, find_system
from wallet.fraud.rules import FraudRules
from wallet.runtime.settings import load_settings
from wallet.worker.rebuild import Rebuilt
from wallet.worker.rebuild import rebuild as rebuild_projections


@app.command(rich_help_panel=Panel.OPERATION)
def rebuild(as_json: AsJson = False, data: DataDirectory = DATA) -> None:
    """Recreate statistics and fraud alerts from the event log, in one transaction; workers wait meanwhile.

    Safe to run again, and beside a running system. Exit code 0: done; otherwise nothing was changed. 1: the log holds
    events that this version does not know. 2: a wrong call or setting. 3: the database can't be reached.
    """
    sys.exit(rebuild_on_screen(data, as_json=as_json))


def rebuild_on_screen(data_dir: Path, *, as_json: bool = False) -> int:
    """Rebuild and print the result. Returns the exit code."""

    def work() -> int:
        settings = find_system(load_settings(), data_dir)
        if not as_json:
            print("rebuilding statistics and fraud alerts from the log; workers wait until it is done", flush=True)
        rebuilt = uvloop.run(rebuild_projections(settings.dsn, FraudRules.of(settings)))
        if as_json:
            print_json(_object(rebuilt))
        else:
            print(_told(rebuilt))
        return EXIT_DONE

    nothing = "nothing was changed; it can be run again at any time"
    return run_errand(work, interrupted=nothing, when_away=f"{nothing.capitalize()}.")


def _object(rebuilt: Rebuilt) -> dict[str, Any]:
    return {
        "walletCount": rebuilt.wallet_count,
        "alertCount": rebuilt.alert_count,
        "eventCount": rebuilt.event_count,
        "newlyProcessedCount": rebuilt.entered_count,
        "seconds": round(rebuilt.seconds, 3),
    }


def _told(rebuilt: Rebuilt) -> str:
    entered = f", {rebuilt.entered_count:,} of them not processed before" if rebuilt.entered_count else ""
    return (
        f"rebuilt {rebuilt.wallet_count:,} wallets' statistics and {rebuilt.alert_count:,} fraud alerts from "
        f"{rebuilt.event_count:,} events{entered}, in {rebuilt.seconds:.1f} s"
    )
