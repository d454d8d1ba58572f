"""`wallet api --workers N`: several api processes behind one port, and the parent that keeps them running.

The parent reserves the port for its whole run, so that a conflict with another program is reported in one clear line
and port 0 becomes the same port for all. It serves nothing itself. The first process starts alone: if it can't start,
that is reported once and the parent ends. Later, a process that ends is started again with back-off while the others
serve.

Effect for clients: at a stop, each process answers every request whose bytes it has read. If a process is killed, its
connections are lost, and a listener that closes resets the connections still queued for it. A client that repeats a
refused or reset request with its key sees no other error. If the parent is killed, its processes stop as if asked to.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from wallet.api.edge.server import STOP_SECONDS_MAX as SERVER_STOP_SECONDS_MAX
from wallet.api.edge.server import is_listened_on, reserved_port
from wallet.cli.errands import EXIT_WRONG_CALL
from wallet.cli.processes.children import CannotStart, Child, running
from wallet.runtime.loop import is_set_within
from wallet.runtime.metrics import DIRECTORY_VARIABLE, forget_process

PROCESSES_MAX: Final = 64
"""Far more than one PostgreSQL can serve; each process has its own connections to it."""
STOP_SECONDS_MAX: Final = SERVER_STOP_SECONDS_MAX + 5.0
"""Longer than a process needs in the worst case, and shorter than this parent's caller waits for the parent."""
_POLL_SECONDS: Final = 0.05


async def run_api_processes(*, host: str, port: int, count: int, quiet: bool, stop: asyncio.Event) -> None:
    """Keep this many api processes serving the port until `stop`. Raises CannotStart, PortInUse or CannotListen."""
    if sys.platform != "linux":
        raise CannotStart(
            "--workers needs Linux: elsewhere one of the processes would get every connection.", EXIT_WRONG_CALL
        )
    with (
        reserved_port(host, port) as held,
        tempfile.TemporaryDirectory(prefix="wallet-api-", ignore_cleanup_errors=True) as metrics,
    ):
        arguments = ["--host", host, "--port", str(held), *(["--quiet"] if quiet else [])]
        first, *others = [_process(number, Path(metrics), arguments) for number in range(1, count + 1)]
        async with running(first):
            if await _serves_before(stop, first, host, held):
                async with _running_beside(first, others):
                    await stop.wait()


@contextmanager
def forgets_metrics_with_parent(directory: Path) -> Iterator[None]:
    """Used in an api process: at its end, remove the metrics directory if the parent was killed before."""
    parent = os.getppid()
    try:
        yield
    finally:
        if os.getppid() != parent:
            shutil.rmtree(directory, ignore_errors=True)


def _process(number: int, metrics: Path, arguments: list[str]) -> Child:
    return Child(
        ["api-process", str(number), str(metrics), *arguments],
        name=f"api process {number}",
        environment={DIRECTORY_VARIABLE: str(metrics)},
        stop_seconds_max=STOP_SECONDS_MAX,
        on_end=partial(forget_process, metrics, number),
    )


async def _serves_before(stop: asyncio.Event, first: Child, host: str, port: int) -> bool:
    """Returns whether the first process listened before `stop`. Raises CannotStart if it ended instead."""
    while not stop.is_set():
        first.expect_not_ended()
        if await is_listened_on(host, port):
            first.mark_started()
            return True
        await is_set_within(stop, _POLL_SECONDS)
    return False


@asynccontextmanager
async def _running_beside(first: Child, others: list[Child]) -> AsyncIterator[None]:
    """Keep the others running too. At the end stop all at once, instead of the first after the others."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(*others))
        for child in others:
            # The first process could start, so the others can: if one fails, the cause is temporary.
            child.mark_started()
        try:
            yield
        finally:
            await asyncio.gather(*(child.stop() for child in (first, *others)))
