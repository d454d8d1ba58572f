"""The previous version, taken from git: its programs must work on the present schema."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

COMMIT = "5c01ab6791981777594a60faf28be1c1d3b39654"
"""The last commit before the newest migration. With each new migration, set this to the commit before it."""


def unpack_previous_version(directory: Path) -> Path:
    """Write its `src` into the directory and return the path; skips the test if git does not have the commit."""
    archive = subprocess.run(["git", "archive", COMMIT, "src"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        reason = archive.stderr.decode(errors="replace").strip()
        pytest.skip(f"the previous version needs the history of a full clone: {reason}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(directory, filter="data")
    return directory / "src"
