"""A connection to RabbitMQ in async/await, on top of pika's callbacks.

What pika requires of its callers, and how this module does it:
- A lost connection never calls the callbacks that wait for a reply. So every wait here also ends when the channel
  closes, and has a time-out.
- An exception in a callback closes the connection. So callbacks here only set events.
- A broker that is blocked or unresponsive never replies to a close. So `close` waits a moment, then aborts.
- pika logs one failure many times, with stack traces. So its log is disabled; callers log the typed error.
"""

import asyncio
import logging
import struct
from collections.abc import Callable
from typing import Any, Final

import structlog
from pika import BasicProperties, URLParameters
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exceptions import AMQPError, ChannelClosedByBroker
from pika.frame import Header
from pika.spec import FRAME_END_SIZE, FRAME_HEADER, FRAME_HEADER_SIZE

from wallet.runtime.errors import ExplainedError

HEARTBEAT_SECONDS: Final = 15
CONNECT_SECONDS: Final = 5.0
CALL_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 2.0
_REASON_LENGTH_MAX: Final = 300

log = structlog.get_logger()


class BrokerUnavailable(Exception):
    """RabbitMQ is out of reach, refused us, or the connection to it was lost; trying again later may help."""


class ChannelRefused(BrokerUnavailable):
    """RabbitMQ closed the channel because of what was asked on it."""

    def __init__(self, message: str, *, code: int, text: str) -> None:
        super().__init__(message)
        self.code = code
        self.text = text


class InvalidBrokerAddress(ExplainedError):
    """RABBITMQ_URL can't be read; expected amqp://user:password@host:port/vhost, special characters %-encoded."""


class BrokerConnection:
    """An open connection, created by `connect`. It ends with `close` or when it is lost, and can't be used again."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.is_blocked = False
        self._opened_or_failed = asyncio.Event()
        self._ended = asyncio.Event()
        self._unblocked_or_ended = asyncio.Event()
        self._unblocked_or_ended.set()
        self._reason = "closed by us"
        self._connection: _Connection

    async def open_channel(self) -> "BrokerChannel":
        """Open a channel. Raises BrokerUnavailable."""
        opened = asyncio.Event()
        try:
            channel = self._connection.channel(on_open_callback=lambda _channel: opened.set())
        except AMQPError as error:
            raise BrokerUnavailable(f"RabbitMQ at {self.address}: {_reason(error)}") from None
        opening = BrokerChannel(channel, self.address)
        await opening.reply(opened)
        return opening

    async def wait_until_unblocked(self) -> None:
        """Wait while the broker refuses messages because it lacks memory or disk. Raises BrokerUnavailable if the
        connection is lost.
        """
        await self._unblocked_or_ended.wait()
        if self._ended.is_set():
            raise BrokerUnavailable(f"RabbitMQ at {self.address}: {self._reason}")

    async def close(self) -> None:
        """Close cleanly if the broker responds soon, otherwise abort. Safe to call on a connection that has ended."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._connection.is_open:
                    self._connection.close()
                if not self._connection.is_closed:
                    await self._ended.wait()
        except TimeoutError:
            await self._abort()

    async def start(self, parameters: URLParameters) -> None:
        """Connect; called only by `connect`."""
        self._connection = _Connection(
            parameters,
            on_open_callback=lambda _connection: self._opened_or_failed.set(),
            on_open_error_callback=lambda _connection, error: self._on_end(error),
            on_close_callback=lambda _connection, error: self._on_end(error),
            custom_ioloop=asyncio.get_running_loop(),
        )
        self._connection.add_on_connection_blocked_callback(lambda _connection, _frame: self._on_blocked())
        self._connection.add_on_connection_unblocked_callback(lambda _connection, _frame: self._on_unblocked())
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._opened_or_failed.wait()
        except TimeoutError:
            await self._abort()
            raise BrokerUnavailable(f"RabbitMQ at {self.address}: no answer within {CONNECT_SECONDS} s") from None
        except asyncio.CancelledError:
            await self._abort()
            raise
        if self._ended.is_set():
            raise BrokerUnavailable(f"RabbitMQ at {self.address}: {self._reason}")

    async def _abort(self) -> None:
        if not self._connection.is_closed:
            self._connection.abort()
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._ended.wait()

    def _on_end(self, error: BaseException) -> None:
        self._reason = _reason(error)
        self.is_blocked = False
        self._ended.set()
        self._opened_or_failed.set()
        self._unblocked_or_ended.set()

    def _on_blocked(self) -> None:
        self.is_blocked = True
        self._unblocked_or_ended.clear()
        log.warning("broker_blocked", address=self.address)

    def _on_unblocked(self) -> None:
        self.is_blocked = False
        self._unblocked_or_ended.set()
        log.info("broker_unblocked", address=self.address)


class BrokerChannel:
    """An open channel. When it closes, every wait on it ends with BrokerUnavailable or ChannelRefused."""

    def __init__(self, channel: Channel, address: str) -> None:
        self.pika = channel
        self._address = address
        self._closed: Exception | None = None
        self._watchers: list[asyncio.Event] = []
        channel.add_on_close_callback(lambda _channel, error: self._on_closed(error))

    def watch(self, event: asyncio.Event) -> None:
        """Set the event when the channel closes; other code may set it for other reasons."""
        self._watchers.append(event)
        if self._closed is not None:
            event.set()

    def raise_if_closed(self) -> None:
        """Raise BrokerUnavailable, or ChannelRefused, if the channel is closed."""
        if isinstance(self._closed, ChannelClosedByBroker):
            code, text = self._closed.reply_code, self._closed.reply_text
            raise ChannelRefused(f"RabbitMQ at {self._address} refused: {code} {text}", code=code, text=text)
        if self._closed is not None:
            raise BrokerUnavailable(f"RabbitMQ at {self._address}: {_reason(self._closed)}")

    async def call(self, method: Callable[..., object], **arguments: Any) -> None:
        """Call a method of the channel and wait for the broker's reply. Raises BrokerUnavailable."""
        replied = asyncio.Event()
        self.send(method, callback=lambda _frame: replied.set(), **arguments)
        await self.reply(replied)

    async def reply(self, replied: asyncio.Event) -> None:
        """Wait until a callback sets the event. Raises BrokerUnavailable if the channel closes or the time limit
        passes.
        """
        self.watch(replied)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await replied.wait()
        except TimeoutError:
            raise BrokerUnavailable(f"RabbitMQ at {self._address}: no answer within {CALL_SECONDS} s") from None
        finally:
            self._watchers.remove(replied)
        self.raise_if_closed()

    def send(self, method: Callable[..., object], **arguments: Any) -> None:
        """Call a method of the channel that has no reply. Raises BrokerUnavailable."""
        self.raise_if_closed()
        try:
            method(**arguments)
        except AMQPError as error:
            raise BrokerUnavailable(f"RabbitMQ at {self._address}: {_reason(error)}") from None

    def _on_closed(self, error: Exception) -> None:
        self._closed = error
        for event in self._watchers:
            event.set()


UNREADABLE: Final = "x-wallet-unreadable"
"""The header that replaces properties which can't be read, or headers that are too large to keep."""
_FRAME_HEADER: Final = struct.Struct(">BHL")
_CONTENT_HEADER: Final = struct.Struct(">HHQ")
_UNREADABLE_ERRORS: Final = (
    AMQPError,
    ArithmeticError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


class _Connection(AsyncioConnection):
    """pika's connection, with a way to end it that does not need the broker.

    Properties that pika can't read (a time beyond year 9999, tables nested hundreds deep) would end the connection each
    time the message is delivered. This class delivers the message without them.
    """

    _frame_buffer: bytes

    def _on_data_available(self, data_in: bytes) -> None:
        while True:
            try:
                super()._on_data_available(data_in)  # type: ignore[misc]
            except _UNREADABLE_ERRORS as error:
                if not self._is_next_frame_unreadable():
                    raise
                self._deliver_without_properties(error)
                data_in = b""
            else:
                return

    def _is_next_frame_unreadable(self) -> bool:
        """Returns whether the header of a message caused the error. Its frame is still in the buffer then."""
        if self._frame_buffer[:1] != bytes([FRAME_HEADER]):
            return False
        try:
            self._read_frame()  # type: ignore[attr-defined]
        except _UNREADABLE_ERRORS:
            return True
        return False

    def _deliver_without_properties(self, error: Exception) -> None:
        _kind, channel, size = _FRAME_HEADER.unpack_from(self._frame_buffer)
        _class, _weight, body_size = _CONTENT_HEADER.unpack_from(self._frame_buffer, FRAME_HEADER_SIZE)
        log.warning("properties_unreadable", bytes=size, error=repr(error)[:_REASON_LENGTH_MAX])
        properties = BasicProperties(headers={UNREADABLE: f"properties of {size} bytes"})
        self._trim_frame_buffer(FRAME_HEADER_SIZE + size + FRAME_END_SIZE)  # type: ignore[attr-defined]
        self._process_frame(Header(channel, body_size, properties))  # type: ignore[attr-defined]

    def abort(self) -> None:
        """End the connection at once; the callback for its end is called soon afterwards."""
        self._terminate_stream(ConnectionError("no answer"))  # type: ignore[attr-defined]


async def connect(url: str, *, name: str) -> BrokerConnection:
    """Open a connection, which RabbitMQ's tools show under that name.

    Raises BrokerUnavailable, or InvalidBrokerAddress if the URL can't be read, which no retry fixes.
    """
    # pika's log is disabled: each failure is a typed error here, and pika would log it ten more times.
    logging.getLogger("pika").setLevel(logging.CRITICAL + 1)
    parameters = _parameters(url)
    parameters.client_properties = {"connection_name": name}
    connection = BrokerConnection(address_of(url))
    await connection.start(parameters)
    return connection


def address_of(url: str) -> str:
    """Returns the host, port and virtual host of a URL, without credentials. Raises InvalidBrokerAddress."""
    parameters = _parameters(url)
    virtual_host = parameters.virtual_host if parameters.virtual_host != "/" else ""
    return f"{parameters.host}:{parameters.port}/{virtual_host}"


def _parameters(url: str) -> URLParameters:
    try:
        parameters = URLParameters(url)
    except (ValueError, TypeError, UnicodeError):
        # pika's message may quote a part of the URL, and so a part of the password.
        raise InvalidBrokerAddress from None
    parameters.heartbeat = HEARTBEAT_SECONDS
    parameters.connection_attempts = 1
    parameters.socket_timeout = CONNECT_SECONDS
    parameters.stack_timeout = CONNECT_SECONDS
    parameters.blocked_connection_timeout = None
    return parameters


def _reason(error: BaseException) -> str:
    """Returns the innermost cause, because pika wraps it several times. Its errors name hosts and codes, never
    credentials.
    """
    while True:
        if inner := getattr(error, "exceptions", None):
            error = inner[-1]
        elif isinstance(inner := getattr(error, "exception", None), BaseException):
            error = inner
        elif error.args and isinstance(error.args[-1], BaseException):
            error = error.args[-1]
        else:
            break
    return f"{type(error).__name__} {error}"[:_REASON_LENGTH_MAX]
