"""`wallet bench`: hands over to the benchmark, which lies beside the program's source and not in it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from wallet.cli.checkout import import_from_checkout
from wallet.cli.errands import give_up
from wallet.cli.options import AsJson

Only = Annotated[list[str] | None, typer.Option(help="A scenario by name; may be given more than once.")]


def bench(
    only: Only = None,
    quick: Annotated[bool, typer.Option("--quick", help="Shorter and fewer runs, a smaller log.")] = False,
    figures: Annotated[Path, typer.Option(metavar="FILE", help="Where every figure is written, as JSON.")] = Path(
        "logs/bench.json"
    ),
    as_json: AsJson = False,
) -> None:
    """Measure this service against what a user would write instead, on private servers.

    Exit code 0: every scenario reaches what it must. 1: one falls short. 2: nothing was measured.
    """
    main = import_from_checkout("benchmarks.main", command="wallet bench")
    try:
        exit_code = main.run(only or [], is_quick=quick, figures=figures, as_json=as_json)
    except main.UnknownScenario as error:
        give_up(str(error))
    sys.exit(exit_code)
