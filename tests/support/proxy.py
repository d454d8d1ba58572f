"""A TCP proxy that simulates the network between a client and a server, and its faults.

    async with Proxy.to("127.0.0.1", 5672) as proxy:
        connect(proxy.url_of("amqp://guest:guest@127.0.0.1:5672/"))
        proxy.silence()

It does not interpret the protocol. It runs in the test's event loop: a test that blocks the loop also stops the
network, so code that waits for a process behind a proxy must run in `asyncio.to_thread`.

Limits: each direction of a connection holds at most CHUNKS_HELD_MAX chunks; then it stops reading, and TCP's own
back-pressure stops the sender. Ordering: the bytes, the end and an error of one direction keep their order with any
delay. At the end of the `async with` every connection is reset and every task has ended; an error that is not
a network error is raised there.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

from tests.support.ports import free_port
from tests.support.proxy_link import Conversation, Link, Network

HOST: Final = "127.0.0.1"
DEFAULT_PORTS: Final = {"postgresql": 5432, "postgres": 5432, "amqp": 5672, "amqps": 5671, "http": 80}


@dataclass(slots=True)
class Counts:
    """The numbers of connections so far."""

    accepted: int = 0
    cut: int = 0


class Proxy:
    """Listens on a loopback port inside `async with`, and forwards each connection to one server."""

    def __init__(self, host: str, port: int, *, listen_port: int | None = None) -> None:
        self.port = listen_port or free_port()
        self.counts = Counts()
        self.network = Network()
        self._host = host
        self._server_port = port
        self._tasks = asyncio.TaskGroup()
        self._links: dict[asyncio.Task[None], Link] = {}
        self._listener: asyncio.Server | None = None
        self._held_port: socket.socket | None = None

    @classmethod
    def to(cls, host: str, port: int, *, listen_port: int | None = None) -> Self:
        """Returns a proxy to a server; without `listen_port` it listens on a free port."""
        return cls(host, port, listen_port=listen_port)

    @classmethod
    def to_server_of(cls, url: str, *, listen_port: int | None = None) -> Self:
        """Returns a proxy to the server of an address."""
        return cls(*_server_of(urlsplit(url)), listen_port=listen_port)

    def url_of(self, url: str) -> str:
        """Returns the address through the proxy, with the same user, password, path and query."""
        parts = urlsplit(url)
        assert _server_of(parts) == (self._host, self._server_port), f"{url} is not behind this proxy"
        credentials, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{credentials}{at}{HOST}:{self.port}").geturl()

    @property
    def connection_count(self) -> int:
        """Returns how many clients are connected now, including those that are silenced."""
        return len(self._links)

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """Returns the tasks, one for each connection."""
        return set(self._links)

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._hold_port()
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop_listening()
        self.cut()
        # The group must see the cancellation that it caused for an error in one of its tasks. It would only wrap an
        # error of the test itself.
        is_cancelled = isinstance(error, asyncio.CancelledError)
        try:
            await self._tasks.__aexit__(*(kind, error, traceback) if is_cancelled else (None, None, None))
        finally:
            if self._held_port is not None:
                self._held_port.close()

    def cut(self, *, is_reset: bool = True) -> None:
        """Break every connection now: both sides get RST, or FIN if `is_reset` is false. New ones are accepted."""
        self.counts.cut += len(self._links)
        for task, link in list(self._links.items()):
            link.break_off(is_reset=is_reset)
            task.cancel()

    def refuse(self) -> None:
        """Cut every connection and refuse new ones, like a host whose server has ended."""
        if self._listener is not None:
            self._stop_listening()
            self._hold_port()
        self.cut()

    async def accept(self) -> None:
        """Accept connections again, on the same port."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._take, sock=self._held_port)
            self._held_port = None

    def silence(self) -> None:
        """Forward nothing, in either direction. Connections stay open; new ones are accepted, and receive nothing.

        Nothing is lost: bytes that are sent during the silence arrive after it, in order, even if the sender has given
        up meanwhile. A network that drops packets has the same effect, because TCP sends them again until they are
        acknowledged. So a COMMIT may take effect long after its client gave up; the code under test must handle it.
        """
        self.network.is_speaking.clear()

    def speak(self) -> None:
        """End the silence, and deliver the bytes that were held."""
        self.network.is_speaking.set()

    def slow(self, seconds: float) -> None:
        """Delay every chunk by this much, in each direction, in order; 0 removes the delay.

        This changes the latency, not the bandwidth: chunks that are sent together arrive together.
        """
        self.network.delay_seconds = seconds

    def converse(self) -> Conversation:
        """Returns the Conversation of a new connection; a proxy for one protocol overrides this."""
        return Conversation()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._listener is None:
            # The kernel had accepted this connection before the port was closed.
            writer.transport.abort()
            return
        self.counts.accepted += 1
        link = Link(self._host, self._server_port, self.network, self.converse(), reader, writer)
        task = self._tasks.create_task(link.run())
        self._links[task] = link
        forget: Callable[[asyncio.Task[None]], object] = self._links.pop
        task.add_done_callback(forget)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _hold_port(self) -> None:
        # A bound port without a listener refuses connections, and no other process can take it.
        reserved_port = socket.socket()
        try:
            reserved_port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved_port.bind((HOST, self.port))
        except OSError:
            reserved_port.close()
            raise
        self._held_port = reserved_port


def _server_of(parts: SplitResult) -> tuple[str, int]:
    return parts.hostname or HOST, parts.port or DEFAULT_PORTS[parts.scheme]
