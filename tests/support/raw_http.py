"""HTTP over a plain socket, so that a test can send what no client library would send."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

HOST = "127.0.0.1"
ANSWER_SECONDS_MAX = 10.0


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """A response as it was received, with header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Returns the decoded JSON of the body."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Returns the code of the answer, which must be a problem."""
        assert self.headers["content-type"] == "application/problem+json", self
        problem = self.json
        assert problem["status"] == self.status, self
        assert problem["title"], self
        assert problem["detail"], self
        assert (problem["message"], problem["statusCode"]) == (problem["detail"], problem["status"]), self
        assert problem["type"] == f"urn:wallet:problem:{problem['code']}", self
        return str(problem["code"])


class RawConnection:
    """One connection, on which answers are read one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes. It is not an error if the server has already closed: its answer can still be read."""
        self._writer.write(data)
        with suppress(ConnectionError):
            await self._writer.drain()

    async def answer(self, *, is_head: bool = False) -> RawAnswer:
        """Read one answer, within a time limit."""
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            status, headers = _parsed(await self._reader.readuntil(b"\r\n\r\n"))
            length = 0 if is_head else int(headers.get("content-length", "0"))
            return RawAnswer(status, headers, await self._reader.readexactly(length))

    async def is_closed_by_server(self) -> bool:
        """Wait for the server to close the connection. Returns False if it sends bytes instead."""
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            try:
                return await self._reader.read(1) == b""
            except ConnectionError:
                return True

    def abort(self) -> None:
        """Abort the connection at once, without closing it in order."""
        self._writer.transport.abort()


@asynccontextmanager
async def raw_connection(port: int) -> AsyncIterator[RawConnection]:
    """Yields an open connection, and closes it at the end."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def ask(port: int, request: bytes) -> RawAnswer:
    """Send bytes on a new connection. Returns the answer."""
    async with raw_connection(port) as connection:
        await connection.send(request)
        return await connection.answer(is_head=request.startswith(b"HEAD "))


async def ask_stubbornly(port: int, request: bytes) -> RawAnswer:
    """Send all bytes before reading, as a simple client does. Returns the answer, even if sending failed."""
    return await asyncio.to_thread(_ask_stubbornly, port, request)


def _ask_stubbornly(port: int, request: bytes) -> RawAnswer:
    with socket.create_connection((HOST, port), timeout=ANSWER_SECONDS_MAX) as connection:
        with suppress(ConnectionError):
            connection.sendall(request)
        received = b""
        with suppress(ConnectionError):
            while part := connection.recv(65_536):
                received += part
    head, _, body = received.partition(b"\r\n\r\n")
    status, headers = _parsed(head + b"\r\n\r\n")
    return RawAnswer(status, headers, body)


def _parsed(head: bytes) -> tuple[int, dict[str, str]]:
    status_line, *lines = head.decode("latin-1").split("\r\n")[:-2]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(status_line.split(" ")[1]), headers
