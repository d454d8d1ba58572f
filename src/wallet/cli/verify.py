"""`wallet verify`: its options, and what each exit code says."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from wallet.cli.database import DATA, DataDirectory
from wallet.cli.options import AsJson


def verify(
    heads: Annotated[
        Path | None, typer.Option(help="Exported journal heads, such as LOG_DIR/journal-heads.log or a copy kept away.")
    ] = None,
    as_json: AsJson = False,
    data: DataDirectory = DATA,
) -> None:
    """Prove the books: that no money was lost, and that no one changed what was written.

    Reads one moment of the database while it goes on working; nobody waits for it. Without --heads it can't see that
    the journal's tail was cut off; with them it still can't see a rewriting of the books and of the heads too.

    Exit code 0: every promise holds. 1: one is broken; the first row at fault is named. 2: a wrong call or setting.
    3: the database can't be reached.
    """
    from wallet.cli.verify_screen import verify_on_screen

    sys.exit(verify_on_screen(data, heads, as_json=as_json))
