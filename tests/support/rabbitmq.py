"""One RabbitMQ node for a test run, and a separate virtual host for each test.

The node is private: it has its own name, ports, cookie, files and epmd, everything listens on the loopback
interface, and its processes are found by process id. Creating a virtual host through rabbitmqctl takes a third of
a second, nearly all of it for the start of rabbitmqctl; so a number of them are created in advance with one call.
"""

import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil

from tests.support.ports import free_ports
from tests.support.reaper import Reaper
from tests.support.sessions import family_of, kill_session, wait_until_ended
from tests.support.waiting import eventually_blocking

START_SECONDS_MAX = 90.0
STOP_SECONDS_MAX = 30.0
CTL_SECONDS_MAX = 30.0
VHOSTS_IN_STOCK = 20
OUTPUT_CHARACTERS_SHOWN = 4_000
ERLANG_ARGUMENTS = "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false"

# Debian's /usr/sbin/rabbitmq-server is a wrapper that changes to its own user and files; the script it calls
# does not.
INSTALLED = (
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)

MAKE_VHOSTS = """
[begin
    ok = rabbit_vhost:add(Name, <<"tests">>),
    rabbit_auth_backend_internal:set_permissions(<<"guest">>, Name, <<".*">>, <<".*">>, <<".*">>, <<"tests">>)
end || Name <- [{names}]], ok.
"""


class RabbitMQServer:
    """A private node; `with` starts it, and removes its processes and files at the end."""

    _numbers: Iterator[int]
    _stock: Iterator[str]

    def __init__(self, reaper: Reaper, scripts: Path) -> None:
        self._reaper = reaper
        self._scripts = scripts
        self.directory = Path(tempfile.mkdtemp(prefix="wallet-rabbitmq-"))
        self._reaper.watch_directory(self.directory)
        self.port, self._distribution_port, self._epmd_port = free_ports(3)
        self._environment = self._make_environment()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._node: subprocess.Popen[bytes] | None = None
        self._family: list[psutil.Process] = []
        self._take_numbers()

    def __enter__(self) -> Self:
        self._start_epmd()
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        if self._epmd is not None:
            self._epmd.terminate()
            self._epmd.wait()
            self._reaper.forget_group(self._epmd.pid)
        shutil.rmtree(self.directory)

    @property
    def is_running(self) -> bool:
        """Returns whether the node was started and neither stopped nor killed since."""
        return self._node is not None

    def start(self) -> None:
        """Starts the node with the data that it had when it was stopped, and waits until it accepts connections."""
        assert not self.is_running
        with (self.directory / "output").open("ab") as output:
            self._node = subprocess.Popen(
                [self._scripts / "rabbitmq-server"],
                env=self._environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._reaper.watch_group(self._node.pid)
        eventually_blocking(self._takes_connections, within=START_SECONDS_MAX)
        self._family = family_of(self._node.pid)

    def stop(self) -> None:
        """Stops the node in order, as an operator would; does nothing if it does not run."""
        if self._node is not None:
            self._node.send_signal(signal.SIGTERM)
            try:
                self._node.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            wait_until_ended(self._family)
            self._forget_node()

    def kill(self) -> None:
        """Kills the node with SIGKILL."""
        if self._node is not None:
            kill_session(self._node.pid, self._family)
            self._node.wait()
            self._forget_node()

    def create_vhost(self) -> str:
        """Returns the address of an unused virtual host."""
        name = next(self._stock, None)
        if name is None:
            names = [f"test-{next(self._numbers)}" for _ in range(VHOSTS_IN_STOCK)]
            self.evaluate(MAKE_VHOSTS.format(names=", ".join(f'<<"{name}">>' for name in names)))
            self._stock = iter(names)
            name = next(self._stock)
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{name}"

    def evaluate(self, expression: str) -> str:
        """Returns the value of an Erlang expression that the node evaluates."""
        return self.ctl("eval", expression)

    def ctl(self, *arguments: str) -> str:
        """Returns the output of rabbitmqctl with these arguments; a call takes a third of a second."""
        finished = subprocess.run(
            [self._scripts / "rabbitmqctl", *arguments],
            env=self._environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=CTL_SECONDS_MAX,
        )
        assert finished.returncode == 0, f"rabbitmqctl {arguments}: {finished.stdout}{finished.stderr}"
        return finished.stdout.strip()

    def output(self) -> str:
        """Returns what the node printed so far."""
        return (self.directory / "output").read_text(errors="replace")

    def _take_numbers(self) -> None:
        self._numbers = itertools.count(1)
        self._stock = iter(())

    def _has_ended(self) -> bool:
        return self._node is None or self._node.poll() is not None

    def _forget_node(self) -> None:
        assert self._node is not None
        self._reaper.forget_group(self._node.pid)
        self._node = None

    def _start_epmd(self) -> None:
        epmd = shutil.which("epmd")
        assert epmd is not None, "epmd, a part of Erlang, is not on PATH"
        self._epmd = subprocess.Popen(
            [epmd],
            env=self._environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._reaper.watch_group(self._epmd.pid)
        eventually_blocking(self._epmd_listens)

    def _epmd_listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._epmd_port)) == 0

    def _takes_connections(self) -> bool:
        """Returns whether the node answers AMQP's greeting, which it does only at the end of its start."""
        if self._has_ended():
            raise RuntimeError(f"RabbitMQ ended while starting:\n{self.output()[-OUTPUT_CHARACTERS_SHOWN:]}")
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(b"AMQP\x00\x00\x09\x01")
                return probe.recv(1) == b"\x01"
        except OSError:
            return False

    def _make_environment(self) -> dict[str, str]:
        directory = self.directory
        (directory / "rabbitmq.conf").write_text("vm_memory_high_watermark.relative = 0.6\nlog.console = true\n")
        (directory / "enabled_plugins").write_text("[].\n")
        (directory / "rabbitmq-env.conf").touch()
        return {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "HOME": str(directory),  # The cookie is stored here.
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"wallet-{os.getpid()}-{secrets.token_hex(3)}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "generated"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG_ARGUMENTS,
        }


def find_scripts() -> Path | None:
    """Returns the folder of RabbitMQ's own scripts, of the newest version, or None if it is not installed."""
    for pattern in INSTALLED:
        for folder in sorted(Path("/").glob(pattern[1:]), reverse=True):
            if (folder / "rabbitmq-server").exists():
                return folder
    on_path = shutil.which("rabbitmq-server")
    return Path(on_path).resolve().parent if on_path is not None else None
