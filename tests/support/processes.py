"""The wallet's own processes, started as a user starts them: `wallet api`, `relay`, `worker`, `up`.

Each is the leader of its own session, writes its output and logs into a directory of the test, and is stopped by
its process id. A failed test shows what they printed; no process remains after the end of a test.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx
import psutil

from tests.support.ports import free_port
from tests.support.reaper import Reaper
from tests.support.sessions import family_of, kill_session, wait_until_ended
from tests.support.waiting import eventually_blocking

FAILPOINTS = "WALLET_FAILPOINTS"
"""A process with one of these may end or freeze before it is ready, because a failpoint requests it."""
ROOT = Path(__file__).parents[2]
FROM_THE_CHECKOUT = (sys.executable, "-P", "-u", "-m", "wallet")
READY_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 30.0
OUTPUT_CHARACTERS_SHOWN = 8_000


class WalletProcess:
    """One running process of the wallet."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], directory: Path, port: int) -> None:
        self.name = name
        self.directory = directory
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._process = process

    @property
    def pid(self) -> int:
        """Returns the process id, which is also the id of its session."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Returns its exit code, or None while it runs."""
        return self._process.poll()

    @property
    def is_frozen(self) -> bool:
        """Returns whether it was stopped by SIGSTOP, as by a failpoint, and waits for SIGCONT."""
        return self.exit_code is None and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    def output(self) -> str:
        """Returns what it printed so far, to stdout and stderr."""
        return (self.directory / "output").read_text(errors="replace")

    def logs(self) -> str:
        """Returns what it wrote into its LOG_DIR so far."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("logs/[!.]*")))

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of an api, by series."""
        text = httpx.get(f"{self.url}/metrics", timeout=READY_SECONDS_MAX, trust_env=False).text
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {series: float(value) for series, value in pairs}

    def peak_bytes(self) -> int:
        """Returns the largest resident set that the process has had."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024

    def send_signal(self, signal_number: int) -> None:
        """Sends a signal to the process alone, not to its children."""
        self._process.send_signal(signal_number)

    def stop(self, signal_number: int = signal.SIGTERM, *, within: float = STOP_SECONDS_MAX) -> int:
        """Asks it to stop, and returns its exit code when it and its children have ended."""
        family = family_of(self.pid)
        self.send_signal(signal_number)
        try:
            exit_code = self._process.wait(within)
            wait_until_ended(family)
        except (subprocess.TimeoutExpired, AssertionError):
            self.kill()
            raise
        return exit_code

    def wait(self, within: float = STOP_SECONDS_MAX) -> int:
        """Waits for it to end by itself and returns its exit code."""
        return self._process.wait(within)

    def kill(self) -> None:
        """Kills it and its children with SIGKILL."""
        kill_session(self.pid, family_of(self.pid))
        self._process.wait()


class Processes:
    """Starts processes for one test and ends them all with it."""

    def __init__(self, directory: Path, reaper: Reaper) -> None:
        self.directory = directory
        self._reaper = reaper
        self.started: list[WalletProcess] = []

    def start_api(self, **settings: str) -> WalletProcess:
        """Starts `wallet api` on PORT, or a free one, and waits until /readyz answers 200."""
        process = self.start("api", settings=settings)
        self.wait_until(process, lambda: process.is_frozen or _is_ready(process.url), may_end=FAILPOINTS in settings)
        return process

    def start_relay(self, **settings: str) -> WalletProcess:
        """Starts `wallet relay`, and waits until it logs that it has started."""
        return self._start_until_it_says_so("relay", settings)

    def start_worker(self, **settings: str) -> WalletProcess:
        """Starts `wallet worker`, and waits until it logs that it has started."""
        return self._start_until_it_says_so("worker", settings)

    def start_up(self, *arguments: str, **settings: str) -> WalletProcess:
        """Starts `wallet up` on a free port, and waits until it prints `ready http://…`."""
        port = free_port()
        process = self.start("up", "--port", str(port), *arguments, settings=settings, port=port)
        self.wait_until(process, lambda: "ready http://" in process.output())
        return process

    def start(
        self,
        command: str,
        *arguments: str,
        settings: Mapping[str, str],
        port: int | None = None,
        program: Sequence[str] = FROM_THE_CHECKOUT,
    ) -> WalletProcess:
        """Starts a command with these settings and no others, without waiting."""
        port = port or int(settings.get("PORT") or free_port())
        directory = self.directory / f"{len(self.started) + 1}-{command}"
        (directory / "logs").mkdir(parents=True)
        (directory / "tmp").mkdir()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT / "src"),
            "LOG_DIR": str(directory / "logs"),
            # Files that a killed process can't remove are removed with the test's directory.
            "TMPDIR": str(directory / "tmp"),
            "PORT": str(port),
        }
        with (directory / "output").open("wb") as output:
            process = subprocess.Popen(
                [*program, command, *arguments],
                env=environment | dict(settings),
                cwd=directory,  # This directory has no .env of a developer.
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._reaper.watch_group(process.pid)
        started = WalletProcess(f"{len(self.started) + 1}-{command}", process, directory, port)
        self.started.append(started)
        return started

    def wait_until(
        self,
        process: WalletProcess,
        condition: Callable[[], bool],
        *,
        within: float = READY_SECONDS_MAX,
        may_end: bool = False,
    ) -> None:
        """Waits until a condition is met. Fails at once if the process ends before, unless it may end."""

        def is_met() -> bool:
            if process.exit_code is not None and may_end:
                return True
            if process.exit_code is not None:
                raise RuntimeError(f"{process.name} ended with {process.exit_code}:\n{process.output()}")
            return condition()

        eventually_blocking(is_met, within=within)

    def stop_all(self) -> None:
        """Kills every process that still runs; only tests of an orderly stop stop processes in order."""
        for process in self.started:
            process.kill()
            self._reaper.forget_group(process.pid)

    def report(self) -> str:
        """Returns what all of them printed and logged, each line once, for a test that failed."""
        parts = []
        for process in self.started:
            lines = dict.fromkeys((process.output() + process.logs()).splitlines())
            said = "\n".join(lines)[-OUTPUT_CHARACTERS_SHOWN:]
            parts.append(f"--- {process.name}, exit code {process.exit_code}\n{said}")
        return "\n".join(parts)

    def _start_until_it_says_so(self, command: str, settings: Mapping[str, str]) -> WalletProcess:
        process = self.start(command, settings=settings)
        self.wait_until(
            process,
            lambda: f"{command}_started" in process.output() + process.logs(),
            may_end=FAILPOINTS in settings,
        )
        return process


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
