"""`wallet api --workers N`: several api processes behind one port, and the parent that keeps them running.

The parent holds the port from the first moment to the last, so that another program's claim to it is one clear line
and port 0 is the same port for all; it serves nothing itself. The first process starts alone: if it can't, that is
said once and the parent ends. Later on a process that ends is started again with back-off while the others serve.

What a client sees: every request whose bytes were read is answered at a stop, by each process. A process that is
killed takes its connections with it, and a listener that closes resets the connections still queued for it: clients
that send a refused or reset request again, with its key, see no other error. If the parent is killed, its processes
stop as if told to.
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
"""Far beyond what one PostgreSQL can feed; each has connections of its own to it."""
STOP_SECONDS_MAX: Final = SERVER_STOP_SECONDS_MAX + 5.0
"""Longer than a process needs in the worst case, shorter than the caller of this parent waits for it."""
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
    """In a process: at its end, remove what the parent would have removed, had it not been killed."""
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
    """Whether the first process listened before `stop`. Raises CannotStart if it ended instead."""
    while not stop.is_set():
        first.expect_not_ended()
        if await is_listened_on(host, port):
            first.mark_started()
            return True
        await is_set_within(stop, _POLL_SECONDS)
    return False


@asynccontextmanager
async def _running_beside(first: Child, others: list[Child]) -> AsyncIterator[None]:
    """Keep the others running too; at the end stop all at once, rather than the first after the others."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(*others))
        for child in others:
            # What the first could do, they can: if not, it will pass.
            child.mark_started()
        try:
            yield
        finally:
            await asyncio.gather(*(child.stop() for child in (first, *others)))
