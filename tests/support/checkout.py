"""A copy of the checkout in which a test may act as a user: data, logs and settings stay in the copy."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT_BEHIND = shutil.ignore_patterns(".git", ".venv*", ".env", "data", "logs", "tests", ".*_cache", "__pycache__")
LOCKS = ("requirements.lock", "requirements-dev.lock")


def copy_checkout(directory: Path) -> Path:
    """Copy the checkout in the state after its set-up: it uses the packages of this Python, which are the same."""
    shutil.copytree(ROOT, directory, ignore=LEFT_BEHIND)
    venv = directory / ".venv"
    venv.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != "set-up":
            (venv / entry.name).symlink_to(entry)
    stamp = "".join(checksum(lock, directory) for lock in LOCKS)
    (venv / "set-up").write_text(stamp)
    return directory


def checksum(name: str, directory: Path) -> str:
    """Returns the line that scripts/setup.sh writes into the stamp for this lock."""
    return subprocess.run(["cksum", name], cwd=directory, capture_output=True, text=True, check=True).stdout
