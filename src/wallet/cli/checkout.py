"""Programs that lie beside the program's source and not in it: the benchmark, the fault laboratory."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

from wallet.cli.errands import give_up

CHECKOUT: Final = Path(__file__).parents[3]


def import_from_checkout(module: str, *, command: str) -> ModuleType:
    """The module, or the end of this command with the reason why there is none."""
    if not (CHECKOUT / module.replace(".", "/")).with_suffix(".py").exists():
        give_up(f"`{command}` is part of a checkout and not of this installation; run `./{command}` there")
    sys.path.insert(0, str(CHECKOUT))
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        give_up(f"{error.name} is missing, one of the packages for tests; `./{command}` brings them")
