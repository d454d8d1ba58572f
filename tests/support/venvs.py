"""Virtual environments for a test, with pip, and the distribution installed into them."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

INSTALL_SECONDS_MAX = 480.0


def create_venv(directory: Path) -> Path:
    """Creates a virtual environment. A .venv that uv created has no pip; this one always has."""
    run("python", sys.executable, "-m", "venv", str(directory))
    return directory


def pip_install(venv: Path, *requirements: str) -> None:
    """Installs packages with pip, with this machine's configuration."""
    run(
        "pip",
        *(str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"),
        *requirements,
    )


def run(name: str, *command: str, settings: Mapping[str, str] | None = None) -> str:
    """Runs a program, which must succeed, and returns what it printed on stdout."""
    finished = subprocess.run(
        command,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | dict(settings or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS_MAX,
        check=False,
    )
    assert finished.returncode == 0, f"{name}\n{finished.stdout[-4000:]}{finished.stderr[-4000:]}"
    return finished.stdout
