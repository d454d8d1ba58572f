"""`./wallet` sets itself up: what help may do, and that a set-up never takes away what runs."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.checkout import checksum, copy_checkout

INSTALLERS = ("uv", "apt-get", "sudo", "docker")


class Script:
    """Runs `./wallet` in a copy of the checkout. Each installer on its PATH only leaves a trace, and fails."""

    def __init__(self, directory: Path) -> None:
        self.checkout = copy_checkout(directory / "wallet")
        self.stamp = self.checkout / ".venv" / "set-up"
        self.stamp.write_text(checksum("requirements.lock", self.checkout))
        self._installers = directory / "installers"
        self._traces = directory / "traces"
        for path in (self._installers, self._traces):
            path.mkdir()
        for name in INSTALLERS:
            installer = self._installers / name
            installer.write_text(f'#!/bin/sh\necho "$*" >> "{self._traces}/{name}"\nexit 1\n')
            installer.chmod(0o755)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Its exit code, and what it printed."""
        ended = subprocess.run(
            ["./wallet", *arguments],
            cwd=self.checkout,
            env={"PATH": f"{self._installers}:{os.environ['PATH']}", "HOME": str(self.checkout), "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return ended.returncode, ended.stdout

    def installers_run(self) -> set[str]:
        return {path.name for path in self._traces.iterdir()}


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


@pytest.mark.parametrize("command", ["bench", "chaos", "up", "monkey"])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_installs_nothing(command: str, option: str, script: Script) -> None:
    before = script.stamp.read_text()
    code, said = script.run(command, option)
    assert (code, script.installers_run()) == (0, set()), said
    assert f"Usage: wallet {command}" in said
    assert script.stamp.read_text() == before
    assert sorted(path.name for path in script.checkout.iterdir() if path.name in ("data", "logs")) == []


def test_help_of_a_set_up_that_is_out_of_date_still_installs_nothing(script: Script) -> None:
    script.stamp.write_text("1 2 requirements.lock\n")
    assert script.run("--version") == (0, "wallet 0.2.0\n")
    assert script.installers_run() == set()


@pytest.mark.parametrize("command", ["bench", "chaos"])
def test_packages_for_tests_that_cannot_be_added_take_nothing_away(command: str, script: Script) -> None:
    code, said = script.run(command)
    assert (code, script.installers_run()) == (3, {"uv"}), said
    assert "adding the packages for tests" in said
    assert (script.checkout / ".venv" / "bin" / "python").exists()
    assert script.stamp.read_text() == checksum("requirements.lock", script.checkout)
    code, said = script.run("verify")
    assert "No database is named" in said
    assert (code, script.installers_run()) == (2, {"uv"})


def test_a_first_set_up_that_was_interrupted_is_made_again(script: Script) -> None:
    script.stamp.unlink()
    code, said = script.run("--help")
    assert (code, script.installers_run()) == (3, {"uv"})
    assert "setting up (first use)" in said
