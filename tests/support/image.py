"""The image, built from the Dockerfile with buildah, and its containers: without a daemon or a registry of images.

buildah runs the build's commands in a chroot. The base image is created with debootstrap from this machine's release of
Debian and gets the name that the Dockerfile asks for. The packages are downloaded beforehand with this machine's pip,
whose settings name the package index, and the build installs them from that directory.

A container is a process in separate mount, IPC and UTS namespaces. Its root is the image, mounted read-only; its
user, its environment and its command are the image's; it has no capability and can't gain one. It shares the machine's
network, so that it reaches the tests' servers on the loopback interface.
"""

import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from tests.support.deployment import ROOT, dockerfile, our_services
from tests.support.reaper import Reaper
from tests.support.venvs import create_venv

LOCK: Final = ROOT / "requirements-image.lock"
BASE_PACKAGES: Final = "ca-certificates,python3-venv,python-is-python3"
BUILD_SECONDS_MAX: Final = 600.0
TOOLS: Final = ("buildah", "debootstrap", "unshare", "chroot")
SHARED_MEMORY: Final = Path("/dev/shm")
MEMORY_BYTES_MIN: Final = 6 * 1024**3
"""A build needs a little over 1 GiB; the rest is for the other processes."""
TAG: Final = "localhost/wallet:test"

# The last process of the chain is the image's program: it keeps the process id, so signals and exit codes are its own.
CONTAINER: Final = """
set -eu
root=$1 volume=$2 target=$3
shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o nosuid,noexec,mode=755 tmpfs "$root/dev"
for device in null zero random urandom; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -o remount,ro "$root/dev"
mount -t tmpfs -o nosuid,nodev,noexec,mode=1777 tmpfs "$root/tmp"
mount --bind "$volume" "$root$target"
mount -o remount,bind,ro "$root"
exec chroot "$root" "$@"
"""


def reason_not_to_build() -> str | None:
    """Returns why this machine can't build the image, or None if it can."""
    if platform.system() != "Linux":
        return "buildah needs Linux"
    if os.geteuid() != 0:
        return "buildah's chroot isolation and debootstrap need root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


@dataclass(frozen=True, slots=True)
class Image:
    """The built image: its files and its configuration."""

    root: Path
    user: str
    working_directory: str
    entrypoint: tuple[str, ...]
    environment: Mapping[str, str]

    def container(self, settings: Mapping[str, str], volume: Path, program: Sequence[str] | None = None) -> list[str]:
        """Returns the command that runs the entrypoint, or another program, in a container."""
        uid, gid = self.user.split(":")
        service = our_services()["api"]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["tmpfs"] == ["/tmp"]
        target = service["volumes"][0].split(":")[1]
        variables = [f"{name}={value}" for name, value in {**self.environment, **settings}.items()]
        return [
            *("unshare", "--mount", "--ipc", "--uts", "--"),
            *("sh", "-c", CONTAINER, "sh", str(self.root), str(volume), target),
            *("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"),
            *("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"),
            *("env", "-i", "-C", self.working_directory, *variables),
            *(self.entrypoint if program is None else program),
        ]

    def create_volume(self, directory: Path) -> Path:
        """Creates a volume as an engine does: a copy, with its owner, of what the image has where it is mounted."""
        target = our_services()["api"]["volumes"][0].split(":")[1]
        subprocess.run(["cp", "-a", str(self.root / target.lstrip("/")), str(directory)], check=True)
        return directory


@contextmanager
def image_directory(reaper: Reaper) -> Iterator[Path]:
    """Yields a directory for one build. It is in memory if possible: debootstrap is faster then."""
    directory = Path(tempfile.mkdtemp(prefix="wallet-image-", dir=SHARED_MEMORY if _memory_serves() else None))
    reaper.watch_directory(directory)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _memory_serves() -> bool:
    if not SHARED_MEMORY.is_dir():
        return False
    state = os.statvfs(SHARED_MEMORY)
    forbids = os.ST_NODEV | os.ST_NOEXEC | os.ST_NOSUID
    free = min(state.f_bavail * state.f_frsize, psutil.virtual_memory().available)
    return not state.f_flag & forbids and free >= MEMORY_BYTES_MIN


class ImageBuilder:
    """Builds the image in a private storage, below a directory that the caller removes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._storage = [
            *("--root", str(directory / "storage"), "--runroot", str(directory / "run")),
            *("--storage-driver", "vfs"),
        ]

    def build(self) -> Image:
        """Builds the base, then the image. Returns the image, with its files mounted."""
        wheels = self._directory / "wheels"
        self._build_base(wheels)
        settings = self._directory / "pip.conf"
        settings.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        self._buildah(
            *("build", "--isolation", "chroot", "--network", "host", "--pull-never", "--tag", TAG),
            *("--volume", f"{wheels}:/wheels:ro", "--volume", f"{settings}:/etc/pip.conf:ro"),
            str(ROOT),
        )
        container = self._buildah("from", "--pull-never", TAG)
        configuration = json.loads(self._buildah("inspect", "--type", "image", TAG))["OCIv1"]["config"]
        return _image(Path(self._buildah("mount", container)), configuration)

    def _build_base(self, wheels: Path) -> None:
        (name,) = {instruction.arguments.split()[0] for instruction in dockerfile() if instruction.name == "FROM"}
        container = self._buildah("from", "scratch")
        root = self._buildah("mount", container)
        release = platform.freedesktop_os_release()["VERSION_CODENAME"]
        _run("debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", release, root)
        version = _run("chroot", root, "python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
        self._download(version, wheels)
        _run("chroot", root, "apt-get", "clean")
        self._buildah("config", "--env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        self._buildah("commit", "--rm", container, f"docker.io/library/{name}")

    def _download(self, python_version: str, wheels: Path) -> None:
        venv = create_venv(self._directory / "pip")
        _run(
            *(str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "download", "--quiet"),
            *("--no-deps", "--require-hashes", "--only-binary", ":all:", "--python-version", python_version),
            *("--requirement", str(LOCK), "--dest", str(wheels)),
        )

    def _buildah(self, *arguments: str) -> str:
        return _run("buildah", *self._storage, *arguments)


def _image(root: Path, configuration: dict[str, Any]) -> Image:
    return Image(
        root=root,
        user=configuration["User"],
        working_directory=configuration["WorkingDir"],
        entrypoint=tuple(configuration["Entrypoint"]),
        environment=dict(variable.split("=", 1) for variable in configuration["Env"]),
    )


def _run(*command: str) -> str:
    """Runs a program, which must succeed. Returns its output."""
    finished = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_SECONDS_MAX, check=False
    )
    assert finished.returncode == 0, f"{' '.join(command)}\n{finished.stdout[-4000:]}{finished.stderr[-4000:]}"
    return finished.stdout.strip()
