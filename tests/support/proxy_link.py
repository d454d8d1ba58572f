"""One connection through the proxy: the client's socket, the proxy's socket to the server, and the bytes between."""

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
"""The value of SO_LINGER that closes a socket at once, with RST."""


class Network:
    """The state of the network that all connections of a proxy share."""

    def __init__(self) -> None:
        self.delay_seconds = 0.0
        self.is_speaking = asyncio.Event()
        self.is_speaking.set()

    async def let_pass(self, due: float) -> None:
        """Wait until bytes that are due at this time of the event loop may arrive."""
        if due > asyncio.get_running_loop().time():
            await _reach(due)
        # A new silence may have begun before this task ran.
        while not self.is_speaking.is_set():
            await self.is_speaking.wait()


class Conversation:
    """Receives all bytes of a connection when they are due, and may change them. This class changes nothing."""

    is_to_be_cut = False
    """Set if the connection is to end: bytes that were already passed on arrive, then both sides are disconnected."""

    def to_server(self, data: bytes) -> bytes:
        """Returns which of the client's bytes arrive at the server."""
        return data

    def to_client(self, data: bytes) -> bytes:
        """Returns which of the server's bytes arrive at the client."""
        return data

    def end(self) -> None:
        """Called when the connection has ended."""


class Link:
    """Forwards one connection until both sides have closed it, one side has broken it, or it is cut."""

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
        """Connect to the server as soon as the network is not silent, and forward the bytes."""
        try:
            await self._network.let_pass(0)
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                reader, writer = await asyncio.open_connection(*self._server)
            self._writers.append(writer)
            await self._carry(reader, writer)
        except OSError:
            # The proxy has already accepted, so for the client an unreachable server looks like a broken connection.
            self.break_off()
        finally:
            self._conversation.end()
            await self._close()

    def break_off(self, *, is_reset: bool = True) -> None:
        """Close both sides at once, without delivering the bytes that are held."""
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
            # One side has disconnected: break the other one, as would happen without a proxy.
            self.break_off()

    async def _say_farewell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Disconnect the client at once; let the server read everything up to the end, and wait until it closes.

        A reset would make the server's kernel discard what the server has not read yet. When the server has closed its
        side, it has processed everything, including a rollback.
        """
        _break_off(self._client, is_reset=True)
        with suppress(OSError):  # A server that has disconnected, or does not close in time, is reset.
            writer.write_eof()
            async with asyncio.timeout(FAREWELL_SECONDS_MAX):
                while await reader.read(CHUNK_BYTES_MAX):
                    pass
        _break_off(writer, is_reset=True)

    async def _close(self) -> None:
        for writer in self._writers:
            writer.close()
            # The direction that failed has already raised the error.
            with suppress(OSError):
                await writer.wait_closed()


class _ToBeCut(Exception):
    """The conversation has requested the end of the connection."""


class _Direction:
    """One direction of a link: received bytes are held until they are due, and then delivered."""

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
        """Queue what arrives, up to the end (no bytes) or an error; both keep their place in the order."""
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
        """Deliver what is due, in order."""
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
