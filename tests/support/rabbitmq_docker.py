"""RabbitMQ in Docker, for a machine where RabbitMQ is not installed: the same server, controlled through `docker`.

This follows the documentation of Docker's commands, but was not run so far: the development machines have no Docker
daemon.
"""

import os
import secrets
import signal
import subprocess
from typing import Self

from tests.support.ports import free_port
from tests.support.rabbitmq import START_SECONDS_MAX, STOP_SECONDS_MAX, RabbitMQServer
from tests.support.reaper import Reaper
from tests.support.waiting import eventually_blocking

IMAGE = "rabbitmq:3.10-management"
PULL_SECONDS_MAX = 600.0


class DockerRabbitMQServer(RabbitMQServer):
    """A private node in a separate container; `with` starts it, and removes it at the end."""

    def __init__(self, reaper: Reaper) -> None:
        self._container = f"wallet-tests-{os.getpid()}-{secrets.token_hex(3)}"
        self._runs = False
        self._take_numbers()
        self.port = free_port()
        reaper.watch_container(self._container)

    def __enter__(self) -> Self:
        publish = f"127.0.0.1:{self.port}:5672"
        _docker("create", "--name", self._container, "--publish", publish, IMAGE, within=PULL_SECONDS_MAX)
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        _docker("rm", "--force", "--volumes", self._container)

    @property
    def is_running(self) -> bool:
        """Returns whether the node was started and neither stopped nor killed since."""
        return self._runs

    def start(self) -> None:
        """Starts the node with the data that it had when it was stopped, and waits until it accepts connections."""
        _docker("start", self._container)
        self._runs = True
        eventually_blocking(self._takes_connections, within=START_SECONDS_MAX)

    def stop(self) -> None:
        """Stops the node in order, as an operator would."""
        _docker("stop", "--time", f"{STOP_SECONDS_MAX:.0f}", self._container)
        self._runs = False

    def kill(self) -> None:
        """Kills the node with SIGKILL."""
        _docker("kill", "--signal", signal.SIGKILL.name, self._container)
        self._runs = False

    def ctl(self, *arguments: str) -> str:
        """Returns the output of rabbitmqctl with these arguments."""
        return _docker("exec", self._container, "rabbitmqctl", *arguments)

    def output(self) -> str:
        """Returns what the node printed so far."""
        return _docker("logs", self._container)

    def _has_ended(self) -> bool:
        return _docker("inspect", "--format", "{{.State.Running}}", self._container) != "true"


def _docker(*arguments: str, within: float = 2 * STOP_SECONDS_MAX) -> str:
    finished = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=within)
    assert finished.returncode == 0, f"docker {arguments}: {finished.stdout}{finished.stderr}"
    return finished.stdout.strip()
