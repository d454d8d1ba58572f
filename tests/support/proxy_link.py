"""One connection through the proxy: a client's socket, the proxy's own to the server, and what passes between."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final

CHUNK_BYTES_MAX: Final = 65_536
CHUNKS_HELD_MAX: Final = 64
CONNECT_SECONDS_MAX: Final = 10.0
FAREWELL_SECONDS_MAX: Final = 10.0
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""For SO_LINGER: closing at once, with RST."""


class Network:
    """The state of the network that all connections of a proxy share."""

    def __init__(self) -> None:
        self.delay_seconds = 0.0
        self.is_speaking = asyncio.Event()
        self.is_speaking.set()

    async def let_pass(self, due: float) -> None:
        """Return when something due at that time of the event loop may arrive."""
        if due > asyncio.get_running_loop().time():
            await _reach(due)
        # A silence may have begun again before this task had its turn.
        while not self.is_speaking.is_set():
            await self.is_speaking.wait()


class Conversation:
    """Sees all that passes a connection at the moment it would arrive, and may change it; this one lets it be."""

    is_to_be_cut = False
    """Set when the connection is to end: what was passed on arrives, and then both sides lose it."""

    def to_server(self, data: bytes) -> bytes:
        """What arrives at the server of what the client sent."""
        return data

    def to_client(self, data: bytes) -> bytes:
        """What arrives at the client of what the server sent."""
        return data

    def end(self) -> None:
        """The connection is over."""


class Link:
    """Carries one connection until both sides have ended it, one has broken it, or it is cut."""

    def __init__(
        self,
        host: str,
        port: int,
        network: Network,
        conversation: Conversation,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._server = (host, port)
        self._network = network
        self._conversation = conversation
        self._client_reader = reader
        self._client = writer
        self._writers = [writer]

    async def run(self) -> None:
        """Connect to the server once the network speaks, and carry."""
        try:
            await self._network.let_pass(0)
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                reader, writer = await asyncio.open_connection(*self._server)
            self._writers.append(writer)
            await self._carry(reader, writer)
        except OSError:
            # The proxy has accepted already, so a server that can't be reached looks like one that broke off.
            self.break_off()
        finally:
            self._conversation.end()
            await self._close()

    def break_off(self, *, is_reset: bool = True) -> None:
        """End both sides at once, without delivering what is held."""
        for writer in self._writers:
            _break_off(writer, is_reset=is_reset)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = self._conversation
        to_server = _Direction(self._network, conversation, self._client_reader, writer, conversation.to_server)
        to_client = _Direction(self._network, conversation, reader, self._client, conversation.to_client)
        try:
            async with asyncio.TaskGroup() as tasks:
                for direction in (to_server, to_client):
                    tasks.create_task(direction.receive())
                    tasks.create_task(direction.deliver())
        except* _ToBeCut:
            await self._say_farewell(reader, writer)
        except* OSError:
            # One side has vanished: the other learns it as it would without a proxy.
            self.break_off()

    async def _say_farewell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The client loses the connection at once; the server reads all that was sent, the end too, and is waited for.

        A reset would make the server's kernel throw away what the server has not read yet. When the server has closed
        its side, it is done with what it was sent, a rollback included.
        """
        _break_off(self._client, is_reset=True)
        with suppress(OSError):  # A server that has vanished, or does not end in time, is reset.
            writer.write_eof()
            async with asyncio.timeout(FAREWELL_SECONDS_MAX):
                while await reader.read(CHUNK_BYTES_MAX):
                    pass
        _break_off(writer, is_reset=True)

    async def _close(self) -> None:
        for writer in self._writers:
            writer.close()
            # Whatever broke the connection was said by the direction that met it.
            with suppress(OSError):
                await writer.wait_closed()


class _ToBeCut(Exception):
    """The conversation wants the connection to end here."""


class _Direction:
    """One direction of a link: what is received is held until it is due, and then delivered."""

    def __init__(
        self,
        network: Network,
        conversation: Conversation,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        pass_on: Callable[[bytes], bytes],
    ) -> None:
        self._network = network
        self._conversation = conversation
        self._source = source
        self._sink = sink
        self._check_everything = pass_on
        self._held: asyncio.Queue[tuple[float, bytes | OSError]] = asyncio.Queue(CHUNKS_HELD_MAX)

    async def receive(self) -> None:
        """Hold what arrives, up to the end (no bytes) or an error, which keep their place in the order."""
        loop = asyncio.get_running_loop()
        while True:
            received = await self._read()
            await self._held.put((loop.time() + self._network.delay_seconds, received))
            if isinstance(received, OSError) or not received:
                return

    async def _read(self) -> bytes | OSError:
        try:
            return await self._source.read(CHUNK_BYTES_MAX)
        except OSError as error:
            return error

    async def deliver(self) -> None:
        """Pass on what is due, in order."""
        while True:
            due, received = await self._held.get()
            await self._network.let_pass(due)
            if isinstance(received, OSError):
                raise received
            if not received:
                self._sink.write_eof()
                return
            passing = self._check_everything(received)
            if passing:
                self._sink.write(passing)
                await self._sink.drain()
            if self._conversation.is_to_be_cut:
                raise _ToBeCut


def _break_off(writer: asyncio.StreamWriter, *, is_reset: bool) -> None:
    transport = writer.transport
    if is_reset and not transport.is_closing():
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()


async def _reach(due: float) -> None:
    loop = asyncio.get_running_loop()
    reached = loop.create_future()
    handle = loop.call_at(due, reached.set_result, None)
    try:
        await reached
    finally:
        handle.cancel()
