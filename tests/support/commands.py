"""Runs one `wallet` command to its end, as a user would."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.processes import ROOT


def environment_of(directory: Path, **settings: str) -> dict[str, str]:
    """Returns the environment of a command, with these settings and no others."""
    return {"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(ROOT / "src")} | settings


def run_in(directory: Path, *arguments: str, python: Sequence[str] = (), **settings: str) -> tuple[int, str, str]:
    """Run a command in a directory. Returns its exit code, stdout and stderr."""
    ended = subprocess.run(
        [sys.executable, *python, "-P", "-m", "wallet", *arguments],
        env=environment_of(directory, **settings),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr
