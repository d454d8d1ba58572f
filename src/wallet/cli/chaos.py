"""`wallet chaos`: hands over to the fault laboratory, which lies beside the program's source and not in it."""

import random
import sys
from pathlib import Path
from typing import Annotated

import typer

from wallet.cli.checkout import import_from_checkout
from wallet.cli.errands import give_up
from wallet.cli.options import AsJson, between, duration

SEEDS = 2**32
_SEED = between(0)

Only = Annotated[list[int] | None, typer.Option(help="An experiment by its number; may be given more than once.")]


def chaos(
    minutes: Annotated[
        float,
        typer.Option(help="How long to go on; what has begun comes to its end.", parser=duration, metavar="MINUTES"),
    ] = 5.0,
    seed: Annotated[
        int | None, typer.Option(help="Of the first round; every round has the next one.", parser=_SEED, metavar="N")
    ] = None,
    only: Only = None,
    logs: Annotated[Path, typer.Option(help="Where the logs of a run that failed are kept.")] = Path("logs/chaos"),
    as_json: AsJson = False,
) -> None:
    """Break a private system on purpose, again and again, and prove each time that no money was harmed.

    Kills processes, cuts networks, stops databases and brokers, all started for this. Never touches another system:
    to stress one that runs, see `wallet monkey`.

    Exit code 0: every promise was kept. 1: one was broken; its seed repeats it. 2: nothing was run.
    """
    laboratory = import_from_checkout("tests.fault.chaos", command="wallet chaos")
    first_seed = random.SystemRandom().randrange(SEEDS) if seed is None else seed
    try:
        exit_code = laboratory.run(only or [], minutes=minutes, seed=first_seed, logs=logs, as_json=as_json)
    except laboratory.UnknownExperiment as error:
        give_up(str(error))
    sys.exit(exit_code)
