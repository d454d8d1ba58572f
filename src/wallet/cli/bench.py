"""`wallet bench`: hands over to the benchmark, which lies beside the program's source and not in it."""

import importlib
import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

CHECKOUT: Final = Path(__file__).parents[3]
EXIT_CANNOT_RUN: Final = 2

Only = Annotated[list[str] | None, typer.Option(help="A scenario by name; may be given more than once.")]


def bench(
    only: Only = None,
    quick: Annotated[bool, typer.Option("--quick", help="Shorter and fewer runs, a smaller log.")] = False,
    json_file: Annotated[Path, typer.Option("--json", help="Where to write every figure.")] = Path("logs/bench.json"),
) -> None:
    """Measure this service against what a user would write instead, on private servers.

    Exit code 0: every scenario reaches what it must. 1: one falls short. 2: nothing was measured.
    """
    if not (CHECKOUT / "benchmarks" / "main.py").exists():
        _give_up("the benchmark is part of a checkout and not of this installation; run `./wallet bench` there")
    sys.path.insert(0, str(CHECKOUT))
    try:
        main = importlib.import_module("benchmarks.main")
    except ModuleNotFoundError as error:
        _give_up(f"{error.name} is missing, one of the packages for tests; `./wallet bench` brings them")
    try:
        exit_code = main.run(only or [], is_quick=quick, json_file=json_file)
    except main.UnknownScenario as error:
        _give_up(str(error))
    sys.exit(exit_code)


def _give_up(message: str) -> NoReturn:
    typer.echo(f"wallet: {message}", err=True)
    sys.exit(EXIT_CANNOT_RUN)
