"""The README keeps its word: each of its shell blocks is run, in order, on a real system."""

import os
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.checkout import ROOT, copy_checkout
from tests.support.client import assert_a_deposit_is_counted
from tests.support.ports import free_port
from tests.support.reaper import Reaper
from tests.support.sessions import family_of, kill_session, wait_until_ended
from tests.support.waiting import eventually_blocking

README_PORT = 3000
READY_SECONDS_MAX = 60.0
COMMAND_SECONDS_MAX = 120.0

# Blocks that no test can run, by their first line, and why.
NOT_RUN = {
    "./test": "it is what runs this test",
    "./wallet chaos --minutes 5": "test_chaos.py runs it, for less long; the experiments are separate tests",
    "docker compose up --build --detach": "needs a container engine; test_image_build.py starts what it would start",
}
# Blocks that start the processes one by one, as for a deployment that has a database and a broker already.
DEPLOYED = {"./wallet migrate"}

# What starts a process that stays, and what it says when it is ready.
SAYS = {"up": "ready http://", "api": "api_ready", "relay": "relay_started", "worker": "worker_started"}
STARTS = re.compile(r"\./wallet (up|api|relay|worker)\b")


@dataclass(frozen=True, slots=True)
class Block:
    """One block: its commands, continued lines joined."""

    commands: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its first command, without the comment."""
        return self.commands[0].split("  #")[0].split(" #")[0].strip()


def fences() -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)


def blocks() -> list[Block]:
    texts = [text for language, text in fences() if language == "sh"]
    joined = [text.replace("\\\n", " ").splitlines() for text in texts]
    return [Block(tuple(line for line in lines if line.strip() and not line.startswith("#"))) for lines in joined]


@dataclass
class Reader:
    """Does what the README says, in a copy of the checkout. Where port 3000 is taken, another stands for it."""

    checkout: Path
    port: int
    reaper: Reaper
    settings: dict[str, str]

    @property
    def url(self) -> str:
        """Where the system answers."""
        return f"http://127.0.0.1:{self.port}"

    def run(self, command: str) -> str:
        """Run one command to its end; it must succeed. Returns what it printed."""
        finished = subprocess.run(
            ["sh", "-euc", self._here(command)],
            cwd=self.checkout,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
        assert finished.returncode == 0, f"{command}\n{finished.stdout}{finished.stderr}"
        return finished.stdout

    @contextmanager
    def running(self, command: str, kind: str) -> Iterator[None]:
        """Start a command that stays, and wait until it is ready; stop it as Ctrl-C does."""
        output = self.checkout / f"{kind}.output"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["sh", "-euc", f"exec {command}"],
                cwd=self.checkout,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.reaper.watch_group(process.pid)
        try:
            self._wait_until_ready(process, output, kind)
            family = family_of(process.pid)
            yield
            process.send_signal(signal.SIGINT)
            assert process.wait(COMMAND_SECONDS_MAX) == 0, output.read_text()
            wait_until_ended(family)
        finally:
            kill_session(process.pid, family_of(process.pid))
            process.wait()
            self.reaper.forget_group(process.pid)

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]", output: Path, kind: str) -> None:
        def is_ready() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{kind} ended with {process.returncode}:\n{output.read_text()}")
            return SAYS[kind] in output.read_text()

        eventually_blocking(is_ready, within=READY_SECONDS_MAX)

    def _here(self, command: str) -> str:
        if self.port == README_PORT:
            return command
        if command.startswith("./wallet monkey") and "--url" not in command:
            return f"{command} --url {self.url}"
        return command.replace(f"127.0.0.1:{README_PORT}", f"127.0.0.1:{self.port}")

    def _environment(self) -> dict[str, str]:
        home = {"PATH": os.environ["PATH"], "HOME": str(self.checkout), "LANG": "C.UTF-8"}
        return home | {"PORT": str(self.port), "PYTHONUNBUFFERED": "1"} | self.settings


def readme_port() -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", README_PORT))
        except OSError:
            return free_port()
    return README_PORT


def test_every_shell_block_is_run_or_named_with_a_reason() -> None:
    names = [block.name for block in blocks()]
    assert len(names) == len(set(names)), "blocks are distinguished by their first line"
    assert {*NOT_RUN, *DEPLOYED} <= set(names), "the lists name a block that is no longer there"
    assert {language for language, _ in fences()} <= {"", "sh"}, "a shell block in another language is not run"
    started = [name for name in names if STARTS.match(name)]
    assert started[:1] == ["./wallet up"]


@pytest.mark.timeout(300)
def test_following_the_readme_works_from_the_first_block_to_the_last(tmp_path: Path, reaper: Reaper) -> None:
    reader = Reader(copy_checkout(tmp_path / "wallet"), readme_port(), reaper, settings={})
    first, *others = [block for block in blocks() if block.name not in NOT_RUN | dict.fromkeys(DEPLOYED)]
    with reader.running(first.name, "up"):
        for block in others:
            for command in block.commands:
                answer = reader.run(command)
                # curl ends well whatever it is answered.
                assert "urn:wallet:problem" not in answer, f"{command}\n{answer}"
        # The README's own key is bound to another prefix.
        key = reader.run("./wallet key create --name reader --scope read").strip()
        with httpx.Client(base_url=reader.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False) as client:
            eventually_blocking(lambda: client.get("/wallet/alice").status_code == 200)
            # What the blocks with curl did: 100 in, 25.50 out, 10 to bob.
            alice = client.get("/wallet/alice").json()
            history = client.get("/wallet/alice/history").json()
        assert alice["balance"] == "64.5000"
        assert history[0]["type"] == "TransferCompleted"
        assert httpx.get(f"{reader.url}/docs", trust_env=False).status_code == 200
    assert (reader.checkout / "data").is_dir()
    assert (reader.checkout / "logs" / "api.log").read_text()


@pytest.mark.parametrize("name", sorted(DEPLOYED))
def test_the_processes_one_by_one_make_a_whole_system(
    name: str, tmp_path: Path, reaper: Reaper, database_url: str, rabbitmq_url: str
) -> None:
    settings = {"DATABASE_URL": database_url, "RABBITMQ_URL": rabbitmq_url}
    reader = Reader(copy_checkout(tmp_path / "wallet"), free_port(), reaper, settings)
    (block,) = [block for block in blocks() if block.name == name]
    assert follow(reader, list(block.commands)) == {"api", "relay", "worker"}


def follow(reader: Reader, commands: list[str]) -> set[str]:
    """Run the commands; those that stay run until the last is ready and a deposit has reached the totals."""
    if not commands:
        assert_a_deposit_is_counted(reader.url)
        return set()
    command, *others = commands
    starts = STARTS.match(command)
    if starts is None:
        reader.run(command)
        return follow(reader, others)
    with reader.running(command, starts[1]):
        return follow(reader, others) | {starts[1]}


def test_the_lines_that_wallet_up_prints_are_those_of_the_readme() -> None:
    """The README shows three commands to try; `up` prints the same, for its own address."""
    printed = (ROOT / "src" / "wallet" / "cli" / "processes" / "up.py").read_text(encoding="utf-8")
    (shown,) = (block for block in blocks() if block.name.startswith("curl"))
    bodies = [shlex.split(command)[-1] for command in shown.commands]
    assert len(bodies) == 3
    for body in bodies:
        assert body.replace("{", "{{").replace("}", "}}") in printed
