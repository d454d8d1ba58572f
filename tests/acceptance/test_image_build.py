"""The image itself: built from the Dockerfile, then run as compose.yaml runs it, against real servers."""

import json
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.client import CREATE_KEY, assert_a_deposit_is_counted
from tests.support.deployment import Ports, addresses_of, our_services
from tests.support.image import Image, ImageBuilder, image_directory, reason_not_to_build
from tests.support.ports import free_port
from tests.support.processes import Processes, WalletProcess
from tests.support.reaper import Reaper
from wallet.version import version

COMMAND_SECONDS_MAX = 60.0
CANNOT_BUILD = reason_not_to_build()

# Tries to create a file in each place, and prints those where it could. No directory may be missing.
WRITABLE = """
import json, pathlib, sys
writable = []
for place in map(pathlib.Path, json.loads(sys.argv[1])):
    assert place.is_dir(), place
    try:
        (place / "probe").touch()
    except OSError:
        continue
    (place / "probe").unlink()
    writable.append(str(place))
print(json.dumps(writable))
"""


@dataclass(frozen=True, slots=True)
class Containers:
    """Starts the services of compose.yaml from the image, with the addresses of a test's servers."""

    image: Image
    processes: Processes
    volume: Path
    addresses: dict[str, str]
    ports: Ports

    def start(self, service: str) -> WalletProcess:
        """Starts the command of a service."""
        command, *arguments = our_services()[service]["command"]
        port = free_port()
        program = self.image.container(
            self._settings() | self.ports.settings(service) | {"PORT": str(port)}, self.volume
        )
        return self.processes.start(command, *arguments, settings={}, port=port, program=program)

    def run(self, *arguments: str, program: list[str] | None = None) -> "subprocess.CompletedProcess[str]":
        """Runs another command, or another program, to its end."""
        command = self.image.container(self._settings(), self.volume, program)
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False
        )

    def _settings(self) -> dict[str, str]:
        environment = our_services()["api"]["environment"] | self.addresses
        return {name: str(value) for name, value in environment.items()}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(CANNOT_BUILD is not None, reason=f"the image can't be built here: {CANNOT_BUILD}")
def test_the_image_is_built_and_runs_the_whole_system_as_its_own_user_on_a_read_only_file_system(
    tmp_path: Path, reaper: Reaper, processes: Processes, empty_database_url: str, rabbitmq_url: str
) -> None:
    with image_directory(reaper) as directory:
        image = ImageBuilder(directory).build()
        volume = image.create_volume(tmp_path / "logs")
        addresses = addresses_of(empty_database_url, rabbitmq_url)
        assert_it_runs_the_whole_system(Containers(image, processes, volume, addresses, Ports()))
        processes.stop_all()


def assert_it_runs_the_whole_system(containers: Containers) -> None:
    processes = containers.processes
    assert containers.run("--version").stdout == f"wallet {version()}\n"
    assert_only_the_volume_and_tmp_are_writable(containers)
    assert containers.start("migrate").wait() == 0
    key = containers.run(*CREATE_KEY).stdout.strip()
    api, relay, worker = (containers.start(name) for name in ("api", "relay", "worker"))
    for process in (api, relay, worker):
        processes.wait_until(process, partial(is_healthy, containers, process))
        assert_is_confined(process)
    assert_a_deposit_is_counted(api.url, key)
    assert httpx.get(f"{api.url}/docs", trust_env=False).status_code == 200
    verified = containers.run("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    stress = containers.run("monkey")
    assert (stress.returncode, stress.stderr.count("wallet-service[stress]")) == (2, 1)
    assert [process.stop() for process in (worker, relay, api)] == [0, 0, 0]
    assert not any(is_healthy(containers, each) for each in (api, relay, worker))
    owners = {path.name: path.stat().st_uid for path in containers.volume.iterdir()}
    assert {"api.log", "relay.log", "worker.log"} <= owners.keys()
    assert set(owners.values()) == {10001}


def assert_only_the_volume_and_tmp_are_writable(containers: Containers) -> None:
    """A file can be created nowhere but in the two places that compose.yaml gives; as root it could be in more."""
    log_dir = containers.image.environment["LOG_DIR"]
    closed = ["/", "/dev", "/etc", "/packages", "/srv/wallet", "/srv/wallet/wallet", "/var/log", "/var/tmp"]
    finished = containers.run(program=["python", "-c", WRITABLE, json.dumps([*closed, "/tmp", log_dir])])
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == ["/tmp", log_dir]


def assert_is_confined(process: WalletProcess) -> None:
    """The process and its children run as user 10001, can do nothing that root can, and can't become root."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in family:
        lines = Path(f"/proc/{each.pid}/status").read_text().splitlines()
        status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
        assert status["Uid"] == status["Gid"] == ["10001"] * 4
        assert status["Groups"] == []
        assert status["NoNewPrivs"] == ["1"]
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[capabilities][0], 16) == 0


def is_healthy(containers: Containers, process: WalletProcess) -> bool:
    """Runs the health check of compose.yaml in a container, as the engine does."""
    command = containers.ports.health_check(process.name.partition("-")[2], process.port)
    return containers.run(program=command).returncode == 0
