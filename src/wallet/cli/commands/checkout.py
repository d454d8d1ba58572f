"""`wallet bench` and `wallet chaos`: programs that exist in a checkout but not in an installation.

They run the benchmark and the fault laboratory, which are next to the package's source and not part of it.
"""

import importlib
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Final

import typer

from wallet.cli.app import Panel, app
from wallet.cli.errands import give_up
from wallet.cli.options import AsJson, between, duration

CHECKOUT: Final = Path(__file__).parents[4]


def import_from_checkout(module: str, *, command: str) -> ModuleType:
    """Returns the module, or ends this command with the reason why it does not exist."""
    if not (CHECKOUT / module.replace(".", "/")).with_suffix(".py").exists():
        give_up(f"`{command}` is part of a checkout and not of this installation; run `./{command}` there")
    sys.path.insert(0, str(CHECKOUT))
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        give_up(f"{error.name} is missing, one of the packages for tests; `./{command}` brings them")


Scenarios = Annotated[list[str] | None, typer.Option(help="A scenario by name; may be given more than once.")]


@app.command(rich_help_panel=Panel.DEVELOPMENT)
def bench(
    only: Scenarios = None,
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


SEEDS: Final = 2**32
_SEED = between(0)

Experiments = Annotated[
    list[int] | None, typer.Option(help="An experiment by its number; may be given more than once.")
]


@app.command(rich_help_panel=Panel.DEVELOPMENT)
def chaos(
    minutes: Annotated[
        float,
        typer.Option(help="How long to run; a round that has begun is finished.", parser=duration, metavar="MINUTES"),
    ] = 5.0,
    seed: Annotated[
        int | None, typer.Option(help="Of the first round; every round has the next one.", parser=_SEED, metavar="N")
    ] = None,
    only: Experiments = None,
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
