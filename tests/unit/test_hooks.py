"""The hooks of a commit are those checks of ./test that take seconds, and fetch nothing."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / ".pre-commit-config.yaml"


def test_the_hooks_are_well_formed_and_local() -> None:
    (repository,) = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    command = [sys.executable, "-P", "-m", "pre_commit", "validate-config", str(CONFIGURATION)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_every_linter_of_the_suite_is_a_hook_with_the_same_name() -> None:
    hooks = {hook["name"] for hook in yaml.safe_load(CONFIGURATION.read_text())["repos"][0]["hooks"]}
    stages = set(re.findall(r'^ +stage "([^"]+)"', (ROOT / "test").read_text(), flags=re.MULTILINE))
    assert stages
    assert stages <= hooks
