"""The files of the image, started as its containers start them, in a place where nothing else of the checkout is."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx

from tests.support.client import CREATE_KEY, assert_a_deposit_is_counted
from tests.support.deployment import Ports, addresses_of, image_environment, our_services, unpack_image
from tests.support.processes import Processes, WalletProcess


def test_the_images_files_are_enough_to_run_the_whole_system(
    processes: Processes, database_url: str, rabbitmq_url: str, tmp_path: Path
) -> None:
    unpack_image(tmp_path / "image")
    environment = container_environment(tmp_path / "image", database_url, rabbitmq_url)
    ports = Ports()
    assert start("migrate", processes, environment, ports).wait() == 0
    created = processes.start(*CREATE_KEY, "--json", settings=environment)
    assert created.wait() == 0
    key = json.loads(created.output())["key"]
    api, relay, worker = (start(name, processes, environment, ports) for name in ("api", "relay", "worker"))
    for process in (api, relay, worker):
        processes.wait_until(process, partial(is_healthy, process, ports))
    assert_a_deposit_is_counted(api.url, key)
    assert httpx.get(f"{api.url}/docs", trust_env=False).status_code == 200
    assert [each.stop() for each in (worker, relay, api)] == [0, 0, 0]
    assert not any(is_healthy(each, ports) for each in (api, relay, worker))


def container_environment(image: Path, database_url: str, rabbitmq_url: str) -> dict[str, str]:
    """The image's environment and compose.yaml's, with the addresses of this machine."""
    variables = image_environment()
    variables["PYTHONPATH"] = str(image / variables["PYTHONPATH"].lstrip("/"))
    variables |= our_services()["api"]["environment"]
    # Each process gets a separate port and log directory from the test that starts it, and this Python's packages.
    ours = {"PORT", "ADMIN_PORT", "LOG_DIR", "PATH"}
    return {name: str(value) for name, value in variables.items() if name not in ours} | addresses_of(
        database_url, rabbitmq_url
    )


def start(name: str, processes: Processes, environment: dict[str, str], ports: Ports) -> WalletProcess:
    """Start a service's command."""
    command, *arguments = our_services()[name]["command"]
    return processes.start(command, *arguments, settings=environment | ports.settings(name))


def is_healthy(process: WalletProcess, ports: Ports) -> bool:
    """Run the health check of the process's container."""
    _python, *arguments = ports.health_check(process.name.partition("-")[2], process.port)
    return subprocess.run([sys.executable, *arguments], capture_output=True, check=False).returncode == 0
