"""Child processes that a parent keeps running: those of `wallet up`, and those of `wallet api --workers`.

A child that ends by itself, or that can't be created, is started again with back-off; each restart is a line on stderr.
A child that ends before `mark_started` is not started again: it would fail for the same reason, and its caller reports
that. Every child runs in its own session, so that the terminal's Ctrl-C reaches only the parent, which stops its
children in its own order. On Linux a child receives SIGTERM if its parent is killed, whenever that happens; on other
systems a killed parent leaves its children running.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NoReturn

import typer

from wallet.cli.errands import EXIT_FAILED
from wallet.runtime.loop import is_set_within
from wallet.runtime.started import Started, report_starts_to

STOP_SECONDS_MAX: Final = 30.0
RESTART_SECONDS_FIRST: Final = 0.5
RESTART_SECONDS_MAX: Final = 10.0
WELL_AFTER_SECONDS: Final = 60.0
"""A child that ran for this long counts as healthy: when it ends, the back-off starts again from the beginning."""
PR_SET_PDEATHSIG: Final = 1
STARTS_VARIABLE: Final = "WALLET_STARTS_FD"
"""The environment variable with the pipe on which a child reports how far it has started."""
REPORT_BYTES_MAX: Final = 4096


class CannotStart(Exception):
    """The processes can't be started; the message states why and what to do."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class BackOff:
    """Computes how long to wait before something that ended by itself is started again."""

    def __init__(self) -> None:
        self._delay = RESTART_SECONDS_FIRST
        self._began_at = time.monotonic()

    def begins(self) -> None:
        """Record that it is started now."""
        self._began_at = time.monotonic()

    def next_delay(self) -> float:
        """Record that it ended. Returns the seconds until it may be started again."""
        if time.monotonic() - self._began_at >= WELL_AFTER_SECONDS:
            self._delay = RESTART_SECONDS_FIRST
        delay = self._delay
        self._delay = min(delay * 2, RESTART_SECONDS_MAX)
        return delay


class Child:
    """One child process, which is started again when it ends by itself.

    A caller that waits until it is ready calls `expect_not_ended` while it waits, and then `mark_started`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        name: str,
        environment: Mapping[str, str],
        stop_seconds_max: float = STOP_SECONDS_MAX,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`environment` is added to ours; `on_end` is called whenever the process has ended by itself."""
        self.name = name
        self.ending: str | None = None
        self._has_started = False
        self._command = [sys.executable, "-P", "-m", "wallet", *arguments]
        self._environment = {**os.environ, **environment}
        self._stop_seconds_max = stop_seconds_max
        self._on_end = on_end
        self._process: Process | None = None
        self._reports = _Reports()
        self._stopping = asyncio.Event()

    async def keep_running(self) -> None:
        """Run the process, and start it again whenever it ends, until `stop`."""
        back_off = BackOff()
        while not self._stopping.is_set():
            back_off.begins()
            how = await self._run_once()
            if self._stopping.is_set():
                return
            self.ending = how
            self._on_end()
            if not self._has_started:
                return
            delay = back_off.next_delay()
            typer.echo(f"{self.name} {how}; starting it again in {delay:g} s", err=True)
            await is_set_within(self._stopping, delay)

    def expect_not_ended(self) -> None:
        """Raise CannotStart if the process ended before it had started."""
        if self.ending is not None and not self._has_started:
            raise CannotStart(
                f"{self.name} could not start: it {self.ending}. The reason is printed above or is in its log."
            )

    def has_reported(self, *states: Started) -> bool:
        """Returns whether the current process has reported one of these states."""
        return self._reports.has(*states)

    def mark_started(self) -> None:
        """From now on, start the process again when it ends. Raises CannotStart if it has ended."""
        self.expect_not_ended()
        self._has_started = True

    async def stop(self) -> None:
        """Ask the process to stop, and kill it if it does not stop within the limit."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            await self._end(self._process)

    async def _run_once(self) -> str:
        """Run the process to its end. Returns how it ended."""
        parent = os.getpid()
        try:
            with self._reports.opened() as pipe:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    env={**self._environment, STARTS_VARIABLE: str(pipe)},
                    pass_fds=(pipe,),
                    start_new_session=True,
                    preexec_fn=lambda: _stop_with_parent(parent),
                )
        except OSError as error:
            return f"can't be started ({error.strerror or error})"
        if self._stopping.is_set():
            # `stop` was called while the process was being created, and found no process to stop.
            await self._end(self._process)
        try:
            return f"ended by itself (exit code {await self._process.wait()})"
        finally:
            self._reports.close()

    async def _end(self, process: Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._stop_seconds_max)
        except TimeoutError:
            typer.echo(f"{self.name} did not stop within {self._stop_seconds_max:g} s; ending it", err=True)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class _Reports:
    """The states that a child wrote to its pipe, read on request. A pipe's buffer is far larger than what a child ever
    writes.
    """

    def __init__(self) -> None:
        self._pipe: int | None = None
        self._text = ""

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """Open a new pipe. Yields the end for the child, which stays open here only until the child has it."""
        self.close()
        self._text = ""
        self._pipe, write_end = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            yield write_end
        finally:
            os.close(write_end)

    def has(self, *states: Started) -> bool:
        """Returns whether one of these states was reported."""
        if self._pipe is not None:
            with contextlib.suppress(BlockingIOError):
                self._text += os.read(self._pipe, REPORT_BYTES_MAX).decode("ascii", errors="replace")
        lines = self._text.splitlines()
        return any(state.name in lines for state in states)

    def close(self) -> None:
        """Close the read end."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


def report_starts_to_parent() -> None:
    """Used in a child: report how far it has started on the pipe that its parent opened, if there is one."""
    given = os.environ.pop(STARTS_VARIABLE, "")
    if not given.isdigit():
        return
    pipe = int(given)

    def write(state: str) -> None:
        # A parent that was killed no longer reads.
        with contextlib.suppress(OSError):
            os.write(pipe, f"{state}\n".encode("ascii"))

    report_starts_to(write)


@asynccontextmanager
async def running(*children: Child) -> AsyncIterator[None]:
    """Keep the children running while inside; at the end stop them all at once."""
    tasks = [asyncio.create_task(child.keep_running(), name=child.name) for child in children]
    try:
        yield
    finally:
        await asyncio.gather(*(child.stop() for child in children))
        await asyncio.gather(*tasks)


def become(program: Path, arguments: Sequence[str], *, environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by another program, with `environment` added to ours. Its signals, streams and exit code are
    then ours.
    """
    os.execve(program, [program.name, *arguments], {**os.environ, **environment})  # noqa: S606 - no shell


def _stop_with_parent(parent: int) -> None:
    """Used in the child before it runs: ask Linux for a SIGTERM when the parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            # The parent was killed before this request, so no signal will come.
            os._exit(1)
