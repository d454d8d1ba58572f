"""`wallet rebuild`: its options, and what each exit code says."""

import sys

from wallet.cli.database import DATA, DataDirectory
from wallet.cli.options import AsJson


def rebuild(as_json: AsJson = False, data: DataDirectory = DATA) -> None:
    """Make statistics and fraud alerts anew from the event log, in one transaction; workers wait meanwhile.

    Safe to run again, and beside a running system. Exit code 0: done; otherwise nothing was changed. 1: the log holds
    events that this version does not know. 2: a wrong call or setting. 3: the database can't be reached.
    """
    from wallet.cli.rebuild_screen import rebuild_on_screen

    sys.exit(rebuild_on_screen(data, as_json=as_json))
