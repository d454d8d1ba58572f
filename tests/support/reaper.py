"""A process that outlives the test run briefly, and ends the processes that the run has left.

The run sends it the process groups and directories that it creates. When the pipe closes, which happens however the
run ends, even by SIGKILL, the reaper kills the groups that still exist and removes the directories.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

REMOVE_ATTEMPTS = 50
REMOVE_PAUSE_SECONDS = 0.1


class Reaper:
    """The test run's side of the pipe."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def watch_group(self, process_group: int) -> None:
        """Kill this group at the end, unless `forget_group` is called before."""
        self._say(f"group {process_group}")

    def forget_group(self, process_group: int) -> None:
        """Do not kill this group: it has ended, and another process may soon have its number."""
        self._say(f"forget {process_group}")

    def watch_directory(self, directory: Path) -> None:
        """Remove this directory at the end, if it is still there."""
        self._say(f"directory {directory}")

    def watch_container(self, name: str) -> None:
        """Remove this Docker container at the end, if it is still there."""
        self._say(f"container {name}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


def main() -> None:
    """The reaper's side: reads until the pipe closes, then cleans up."""
    groups: set[int] = set()
    directories: list[Path] = []
    containers: list[str] = []
    for line in sys.stdin:
        verb, _, thing = line.rstrip("\n").partition(" ")
        if verb == "group":
            groups.add(int(thing))
        elif verb == "forget":
            groups.discard(int(thing))
        elif verb == "directory":
            directories.append(Path(thing))
        elif verb == "container":
            containers.append(thing)
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for container in containers:
        subprocess.run(["docker", "rm", "--force", "--volumes", container], check=False)
    for directory in directories:
        _remove(directory)


def _remove(directory: Path) -> None:
    # Killed processes may still be writing files; each attempt removes more of them.
    for _ in range(REMOVE_ATTEMPTS):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(REMOVE_PAUSE_SECONDS)


if __name__ == "__main__":
    main()
