"""The package as it is installed without a checkout: its metadata, its command, and the files that it needs."""

import os
import subprocess
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import httpx
import pytest

from tests.support.client import assert_a_deposit_is_counted
from tests.support.processes import ROOT, Processes
from tests.support.venvs import create_venv, pip_install, run
from wallet.version import version

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_package_is_installed_by_pip_and_runs_without_the_checkout(tmp_path: Path, processes: Processes) -> None:
    venv = create_venv(tmp_path / "venv")
    wheel = build_wheel(venv, tmp_path / "wheels")
    assert_the_metadata_is_complete(metadata_of(wheel))
    pip_install(venv, str(wheel))
    wallet = venv / "bin" / "wallet"
    assert run("--version", str(wallet), "--version") == f"wallet {version()}\n"
    assert_commands_say_what_is_missing(wallet, tmp_path)
    up = processes.start(
        "up",
        *("--port", "0", "--data", str(tmp_path / "data")),
        settings={"PYTHONPATH": ""},
        program=[str(wallet)],
    )
    processes.wait_until(up, lambda: "ready http://" in up.output())
    url = up.output().split("ready ")[1].split()[0]
    assert_a_deposit_is_counted(url)
    assert httpx.get(f"{url}/docs", trust_env=False).status_code == 200
    assert up.stop() == 0


def test_pipx_runs_the_command_from_a_checkout(tmp_path: Path) -> None:
    venv = create_venv(tmp_path / "venv")
    pip_install(venv, "pipx")
    home = {"PIPX_HOME": str(tmp_path / "home"), "PIPX_BIN_DIR": str(tmp_path / "bin"), "PIPX_FETCH_PYTHON": "never"}
    pipx = (str(venv / "bin" / "pipx"), "run", "--spec", str(ROOT), "wallet", "--version")
    assert run("pipx", *pipx, settings=home) == f"wallet {version()}\n"


def build_wheel(venv: Path, directory: Path) -> Path:
    """Builds the wheel as `pip install .` does: with the build backend that pyproject.toml names, in isolation."""
    pip = (str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
    run("pip wheel", *pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory), str(ROOT))
    (wheel,) = directory.iterdir()
    return wheel


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        assert f"{name.removesuffix('METADATA')}licenses/LICENSE" in archive.namelist()
        return message_from_string(archive.read(name).decode())


def assert_the_metadata_is_complete(metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("wallet-service", version())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    needed = metadata.get_all("Requires-Dist", [])
    assert [each for each in needed if each.startswith("aiohttp")] == ["aiohttp<4,>=3.11; extra == 'stress'"]


def assert_commands_say_what_is_missing(wallet: Path, directory: Path) -> None:
    """One line each, and exit code 2: the stress tool needs its extra, the benchmark and the experiments a checkout."""
    for command, hint in (
        ("monkey", "pip install 'wallet-service[stress]'"),
        ("bench", "is part of a checkout"),
        ("chaos", "is part of a checkout"),
    ):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        finished = subprocess.run(
            [wallet, command], cwd=directory, env=environment, capture_output=True, text=True, check=False
        )
        assert (finished.returncode, finished.stderr.count("\n")) == (2, 1), finished.stderr
        assert hint in finished.stderr
