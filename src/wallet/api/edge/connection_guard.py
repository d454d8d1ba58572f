"""Closes connections that use more than their share, so that one client cannot keep the others out.

The HTTP server accepts connections up to a number, and has no limit for a single client. This guard checks the
process's own sockets five times a second:

- A connection on which nothing has arrived for SILENT_SECONDS_MAX since it was opened is closed.
- One address may have a quarter of the connections; an IPv6 client is counted by its /64 network. If an address has
  more, silent connections are closed first, then idle ones, then those that may wait for an answer. Addresses of
  trusted proxies are exempt, because many clients share them.
- All clients together may have `connections_max`; more are closed in the same order. The server accepts more than that
  (server.py), so that a burst of one client does not keep others in the kernel's queue until the next check.

The guard closes a connection by shutting its socket down; the server then sees the end of the stream and frees the
connection. Every check reads the kernel's data through a duplicate of the descriptor, so a descriptor that is reused in
the meantime is not taken for the same connection. The guard needs Linux (TCP_INFO and /proc); on other systems only the
server's own time-outs apply.
"""

import asyncio
import os
import socket
import struct
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from wallet.api.edge.exchange import Network
from wallet.runtime.addresses import client_of, read_address

SILENT_SECONDS_MAX: Final = 5.0
CHECK_SECONDS: Final = 0.2
CALM_CHECK_SECONDS: Final = 1.0
"""The interval while there are so few descriptors that no client can have reached its limit."""
_SLICE_SIZE: Final = 256
"""How many sockets are checked in one turn of the event loop; this takes about a millisecond."""

_DESCRIPTORS: Final = Path("/proc/self/fd")
# struct tcp_info of Linux 4.1 and later: times in milliseconds, tcpi_bytes_received.
_TCP_INFO_SIZE: Final = 136
_LAST_DATA_SENT, _LAST_DATA_SENT_AT = struct.Struct("=I"), 44
_LAST_DATA_RECEIVED, _LAST_DATA_RECEIVED_AT = struct.Struct("=I"), 52
_BYTES_RECEIVED, _BYTES_RECEIVED_AT = struct.Struct("=Q"), 128

_log = structlog.get_logger("wallet.api.connections")


@dataclass(frozen=True, slots=True)
class _Connection:
    descriptor: int
    peer: tuple[str, int]
    idle_seconds: float
    has_sent: bool
    may_wait_for_answer: bool

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Returns the rank. The connection with the lowest rank is closed first."""
        return (self.has_sent, self.may_wait_for_answer, -self.idle_seconds)


class ConnectionGuard:
    """Guards the connections to one port of this process."""

    def __init__(
        self,
        port: int,
        *,
        connections_max: int,
        exempt: Sequence[Network] = (),
        silent_seconds_max: float = SILENT_SECONDS_MAX,
    ) -> None:
        self._port = port
        self._connections_max = connections_max
        self._per_client_max = max(1, connections_max // 4)
        self._exempt = exempt
        self._silent_seconds_max = silent_seconds_max

    async def run(self) -> None:
        """Check until cancelled."""
        if not (hasattr(socket, "TCP_INFO") and _DESCRIPTORS.is_dir()):
            _log.info("connections_not_guarded", reason="it needs Linux")
            await asyncio.Event().wait()
        while True:
            descriptor_count = self._per_client_max
            try:
                descriptor_count = await self.check()
            except OSError as error:
                # No descriptor is free for listing the others; some will be free at the next check.
                _log.warning("connections_not_checked", error=repr(error))
            await asyncio.sleep(CALM_CHECK_SECONDS if descriptor_count < self._per_client_max / 2 else CHECK_SECONDS)

    async def check(self) -> int:
        """Close the connections that exceed a limit, once. Returns how many descriptors this process has."""
        by_client: defaultdict[str, list[_Connection]] = defaultdict(list)
        silent: list[_Connection] = []
        descriptors = [int(path.name) for path in _DESCRIPTORS.iterdir()]
        for number, descriptor in enumerate(descriptors, start=1):
            if number % _SLICE_SIZE == 0:
                await asyncio.sleep(0)
            connection = self._read(descriptor)
            if connection is None:
                continue
            if not connection.has_sent and connection.idle_seconds >= self._silent_seconds_max:
                silent.append(connection)
            else:
                by_client[client_of(connection.peer[0])].append(connection)
        if silent:
            self._close(silent, reason="silent")
        kept: list[_Connection] = []
        for client, connections in by_client.items():
            excess = len(connections) - self._per_client_max
            if excess > 0 and not self._is_exempt(connections[0]):
                connections.sort(key=lambda each: each.rank)
                self._close(connections[:excess], reason="too many", client=client)
                kept += connections[excess:]
            else:
                kept += connections
        if (excess := len(kept) - self._connections_max) > 0:
            kept.sort(key=lambda each: each.rank)
            self._close(kept[:excess], reason="too many in all")
        return len(descriptors)

    def _read(self, descriptor: int) -> _Connection | None:
        """Returns the descriptor as a client's connection, or None if it is something else or is closed."""
        with suppress(OSError), _duplicate(descriptor) as duplicate:
            if self._is_ours(duplicate):
                info = duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
                [idle_ms] = _LAST_DATA_RECEIVED.unpack_from(info, _LAST_DATA_RECEIVED_AT)
                [since_sent_ms] = _LAST_DATA_SENT.unpack_from(info, _LAST_DATA_SENT_AT)
                [received] = _BYTES_RECEIVED.unpack_from(info, _BYTES_RECEIVED_AT)
                peer = duplicate.getpeername()[:2]
                return _Connection(descriptor, peer, idle_ms / 1000, received > 0, idle_ms <= since_sent_ms)
        return None

    def _is_ours(self, duplicate: socket.socket) -> bool:
        address = duplicate.getsockname()
        return isinstance(address, tuple) and address[1] == self._port

    def _is_exempt(self, connection: _Connection) -> bool:
        address = read_address(connection.peer[0])
        return address is not None and any(address in network for network in self._exempt)

    def _close(self, connections: Sequence[_Connection], **why: str) -> None:
        for connection in connections:
            with suppress(OSError), _duplicate(connection.descriptor) as duplicate:
                # The descriptor may refer to another connection by now.
                if duplicate.getpeername()[:2] == connection.peer:
                    duplicate.shutdown(socket.SHUT_RDWR)
        _log.warning("connections_closed", count=len(connections), **why)


def _duplicate(descriptor: int) -> socket.socket:
    """Returns a duplicate of a descriptor's socket, which can be closed safely. Raises OSError if there is none."""
    copy = os.dup(descriptor)
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=copy)
    except BaseException:
        os.close(copy)
        raise
