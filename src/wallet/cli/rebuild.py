"""`wallet rebuild`: its options, and what each exit code says."""

import sys
from pathlib import Path

from wallet.cli.database import DataDirectory


def rebuild(data: DataDirectory = Path("data")) -> None:
    """Make statistics and fraud alerts anew from the event log, in one transaction; workers wait meanwhile.

    Safe to run again, and beside a running system. Exit code 0: done. 2: nothing was changed.
    """
    from wallet.cli.rebuild_screen import rebuild_on_screen

    sys.exit(rebuild_on_screen(data))
