"""Runs the HTTP server in our own event loop until `stop` is set.

At stop no new connection is accepted, idle connections are closed, and every request whose bytes were read is answered.
Connections that are still in the middle of a request's head end with their time-out. Bounds: a request's head has
HEAD_SECONDS_MAX and HEAD_BYTES_MAX, and an idle connection is kept for the same time. CONNECTIONS_MAX connections are
kept at once, fewer if the system allows fewer open files. ACCEPTED_FACTOR times as many are accepted until
connection_guard.py has closed those above a limit, of one client or of all; more of them wait in the kernel's queue.
Stopping takes at most STOP_SECONDS_MAX.

Several processes may share a port (`reserved_port`, `shares_port`). Each process listens on it, and the kernel spreads
new connections over them by their addresses. The promise at a stop is the same for each process: requests that were
read are answered. A connection that still waits in the kernel's queue of a closing listener is reset, even if another
process listens on the port; nothing of it was read, so a client can send again.
"""

import asyncio
import errno
import resource
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from wallet.api.edge.connection_guard import ConnectionGuard
from wallet.api.edge.exchange import Network
from wallet.runtime.errors import ExplainedError

HEAD_SECONDS_MAX: Final = 15.0
HEAD_BYTES_MAX: Final = 32 * 1024
CONNECTIONS_MAX: Final = 4096
ACCEPTED_FACTOR: Final = 2
"""How many times CONNECTIONS_MAX are accepted; the guard soon closes the rest."""
OTHER_FILES_MAX: Final = 512
"""Descriptors left for other uses than client connections: the database, logs, files."""
LISTEN_BACKLOG: Final = 2048
START_SECONDS_MAX: Final = 10.0
STOP_SECONDS_MAX: Final = 20.0
_POLL_SECONDS: Final = 0.01

_log = structlog.get_logger("wallet.api.edge.server")


class PortInUse(ExplainedError):
    """Port {port} on {host} is in use: stop what listens there, or choose another with --port, PORT or ADMIN_PORT."""


class CannotListen(ExplainedError):
    """Cannot listen on {host}, port {port}: {reason}"""


class ServerEnded(ExplainedError):
    """The HTTP server ended by itself; its process should be started again."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The limits for a client's time."""

    connections_max: int = CONNECTIONS_MAX
    head_seconds_max: float = HEAD_SECONDS_MAX
    stop_seconds_max: float = STOP_SECONDS_MAX


async def serve(
    app: Any,
    *,
    host: str,
    port: int,
    stop: asyncio.Event,
    on_ready: Callable[[str], None],
    limits: ServerLimits | None = None,
    shares_port: bool = False,
    trusted_proxies: Sequence[Network] = (),
) -> None:
    """Serve until `stop` is set. `on_ready` is called with the address, such as http://127.0.0.1:3000, once the server
    responds.

    Port 0 means any free port. With `shares_port`, the port must be one that a `reserved_port` of this user keeps;
    another process that shares it may respond before this one does. Raises PortInUse, CannotListen or ServerEnded.
    """
    limits = limits or ServerLimits()
    connections_max = allow_many_connections(limits.connections_max)
    with _bound(host, 0 if shares_port else port) as claimed:
        # The server itself would share a port with any program, so it gets a port that is known to be free or to be
        # ours.
        address, free_port = claimed.getsockname()[:2]
    port = port if shares_port else free_port
    server = _server(app, address, port, limits, connections_max)
    serving = asyncio.create_task(server.serve(), name="http server")
    stopping = asyncio.create_task(stop.wait(), name="http server's stop")
    guard = ConnectionGuard(port, connections_max=connections_max, exempt=trusted_proxies)
    guarding = asyncio.create_task(guard.run(), name="connection guard")
    try:
        await _wait_until_listening(address, port, serving)
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await asyncio.wait([serving, stopping, guarding], return_when=asyncio.FIRST_COMPLETED)
        for ended in (serving, guarding):
            if ended.done():
                raise ServerEnded from ended.exception()
    finally:
        stopping.cancel()
        guarding.cancel()
        await _end(server, serving, limits)


@contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """Reserve a port for our processes that share it, even while none of them runs. Yields its number.

    Meanwhile only this user's sockets with the option to share the port can bind it. Raises PortInUse or CannotListen.
    """
    with ExitStack() as held:
        first = held.enter_context(_bound(host, port))
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # The first socket had to be bound with the option to reuse the address, and so lets others bind until somebody
        # listens. So a second socket without that option replaces it. Old connections of another program can prevent
        # that.
        number = int(first.getsockname()[1])
        with suppress(OSError):
            second = held.enter_context(socket.socket(first.family, first.type, first.proto))
            second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            second.bind(first.getsockname())
            first.close()
        yield number


async def is_listened_on(host: str, port: int) -> bool:
    """Returns whether this port of our own accepts a connection."""
    # A wildcard address can be listened on, but on some systems not connected to.
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        _, writer = await asyncio.open_connection(reachable, port)
    except OSError:
        return False
    writer.close()
    return True


def allow_many_connections(wanted: int = CONNECTIONS_MAX) -> int:
    """Raise this process's limit of open files as far as allowed. Returns how many connections it can keep."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = ACCEPTED_FACTOR * wanted + OTHER_FILES_MAX
    files = files if hard == resource.RLIM_INFINITY else min(files, hard)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return min(wanted, max(1, (files - OTHER_FILES_MAX) // ACCEPTED_FACTOR))


def _server(app: Any, host: str, port: int, limits: ServerLimits, connections_max: int) -> Server:
    return Server(
        app,
        host,
        port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        backlog=LISTEN_BACKLOG,
        backpressure=ACCEPTED_FACTOR * connections_max,
        http1_settings=HTTP1Settings(
            header_read_timeout=int(limits.head_seconds_max * 1000), max_buffer_size=HEAD_BYTES_MAX
        ),
        log_enabled=False,
    )


def _bound(host: str, port: int) -> socket.socket:
    """Returns a socket bound to the port, which nothing listens on. Raises PortInUse or CannotListen."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as undo:
            bound = undo.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            undo.pop_all()
            return bound
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(host=host, port=port) from None
        reason = error.strerror or str(error)
        raise CannotListen(host=host, port=port, reason=reason) from None


async def _wait_until_listening(address: str, port: int, serving: asyncio.Task[None]) -> None:
    deadline = asyncio.get_running_loop().time() + START_SECONDS_MAX
    while not serving.done() and asyncio.get_running_loop().time() < deadline:
        if await is_listened_on(address, port):
            return
        await asyncio.sleep(_POLL_SECONDS)
    raise ServerEnded


async def _end(server: Server, serving: asyncio.Task[None], limits: ServerLimits) -> None:
    server.stop()  # type: ignore[no-untyped-call] # granian has no type for this method
    _, unfinished = await asyncio.wait([serving], timeout=limits.stop_seconds_max)
    if unfinished:
        _log.warning("http_server_stopped_late", seconds=limits.stop_seconds_max)
        serving.cancel()
        await asyncio.wait([serving])
