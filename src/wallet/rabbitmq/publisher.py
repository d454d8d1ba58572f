"""Publishes messages in windows. Each message is either confirmed by the broker or counts as not published.

A window is several hundred messages sent without waiting, then one wait for all their confirms, which a callback counts
(a future for each message would cost more than the message).

A message counts as published if it is confirmed (the queue has it on disk) and not returned. After a return (no queue
took it), a nack, a time-out or a lost connection it counts as not published. The last two leave the publisher unusable,
and the state of every message of the window is then unknown. So another publisher sends the whole window again;
consumers recognise the duplicates by their id.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self

from pika import BasicProperties
from pika.frame import Method
from pika.spec import Basic

from wallet.rabbitmq.connection import BrokerChannel, BrokerConnection, BrokerUnavailable, connect
from wallet.rabbitmq.topology import WORKER_QUEUE, Topology, declare

CONFIRM_SECONDS: Final = 10.0
# After this many messages other tasks may run, and the socket can send its bytes.
_TURN_SIZE: Final = 100
_PERSISTENT: Final = 2


class NotPublished(Exception):
    """RabbitMQ returned or refused the message: it is not on the queue. The message states why."""


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message to publish: its id is the event's id, its type the event's type, which is its routing key too."""

    body: bytes
    message_id: str | None
    type: str | None
    headers: Mapping[str, Any] = field(default_factory=dict)
    whole: None = None
    """As in a delivery: the body is complete."""


class Window:
    """Messages sent together. `reason` is why the last unpublished message was not published."""

    def __init__(self, messages: Sequence[OutgoingMessage], first_tag: int) -> None:
        self.reason = ""
        self.confirmed = asyncio.Event()
        self._messages = messages
        self._first_tag = first_tag
        self._is_pending = bytearray(b"\x01" * len(messages))
        self._pending_count = len(messages)
        self._confirmed_below = 0
        self.unpublished: set[int] = set()
        if not messages:
            self.confirmed.set()

    @property
    def is_complete(self) -> bool:
        """Returns whether the broker has confirmed or refused every message."""
        return self._pending_count == 0

    def confirm(self, tag: int, *, multiple: bool, is_ack: bool) -> None:
        """Process a confirm: of one message, or of all up to it."""
        last = tag - self._first_tag
        for index in range(self._confirmed_below, last + 1) if multiple else (last,):
            if self._is_pending[index]:
                self._is_pending[index] = 0
                self._pending_count -= 1
                if not is_ack:
                    self.reason = "refused by the queue"
                    self.unpublished.add(index)
        if multiple:
            self._confirmed_below = last + 1
        if self.is_complete:
            self.confirmed.set()

    def give_back(self, message_id: str | None, reason: str) -> None:
        """Process a return, which arrives before the same message's confirm and overrides it."""
        self.reason = reason
        self.unpublished.update(i for i, message in enumerate(self._messages) if message.message_id == message_id)


class Publisher:
    """A channel in confirm mode with one window at a time; used by one task."""

    def __init__(self, connection: BrokerConnection, channel: BrokerChannel, topology: Topology) -> None:
        self._connection = connection
        self._channel = channel
        self._exchange = topology.exchange
        self._next_tag = 1
        self._window = Window((), 1)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, topology: Topology, *, name: str) -> AsyncIterator[Self]:
        """Connect and declare the topology. Raises BrokerUnavailable or TopologyMismatch."""
        connection = await connect(url, name=name)
        try:
            channel = await connection.open_channel()
            await declare(channel, topology)
            publisher = cls(connection, channel, topology)
            channel.pika.add_on_return_callback(publisher._on_return)
            await channel.call(channel.pika.confirm_delivery, ack_nack_callback=publisher._on_confirm)
            yield publisher
        finally:
            await connection.close()

    def raise_if_lost(self) -> None:
        """Raise BrokerUnavailable if the connection is lost: an idle publisher would not notice."""
        self._channel.raise_if_closed()

    async def publish(self, messages: Sequence[OutgoingMessage]) -> frozenset[int]:
        """Publish to the exchange. Returns the indexes of the messages that were not published. Raises
        BrokerUnavailable.
        """
        return await self.wait_until_confirmed(await self.send(messages))

    async def publish_to_worker_queue(self, message: OutgoingMessage) -> None:
        """Publish to the worker's queue only, not to the exchange. Raises NotPublished or BrokerUnavailable."""
        window = await self._send((message,), exchange="", routing_key=WORKER_QUEUE)
        if await self.wait_until_confirmed(window):
            raise NotPublished(f"The message was not published to {WORKER_QUEUE}: {window.reason}.")

    async def send(self, messages: Sequence[OutgoingMessage]) -> Window:
        """Send a window without waiting for its confirms. Waits while the broker is blocked.

        Raises BrokerUnavailable.
        """
        return await self._send(messages, exchange=self._exchange, routing_key=None)

    async def wait_until_confirmed(self, window: Window) -> frozenset[int]:
        """Wait for the confirms of a window. Returns the indexes of the messages that were not published."""
        self._channel.watch(window.confirmed)
        while not window.is_complete:
            await self._connection.wait_until_unblocked()
            try:
                async with asyncio.timeout(CONFIRM_SECONDS):
                    await window.confirmed.wait()
            except TimeoutError:
                if not self._connection.is_blocked:
                    address = self._connection.address
                    raise BrokerUnavailable(f"RabbitMQ at {address}: no confirm in {CONFIRM_SECONDS} s") from None
            self._channel.raise_if_closed()
        return frozenset(window.unpublished)

    async def _send(self, messages: Sequence[OutgoingMessage], *, exchange: str, routing_key: str | None) -> Window:
        assert self._window.is_complete, "the window before was not confirmed"
        await self._connection.wait_until_unblocked()
        window = self._window = Window(messages, self._next_tag)
        self._next_tag += len(messages)
        for start in range(0, len(messages), _TURN_SIZE):
            for message in messages[start : start + _TURN_SIZE]:
                key = (message.type or "") if routing_key is None else routing_key
                self._send_one(message, exchange=exchange, routing_key=key)
            await asyncio.sleep(0)
        return window

    def _send_one(self, message: OutgoingMessage, *, exchange: str, routing_key: str) -> None:
        self._channel.send(
            self._channel.pika.basic_publish,
            exchange=exchange,
            routing_key=routing_key,
            body=message.body,
            properties=BasicProperties(
                content_type="application/json",
                delivery_mode=_PERSISTENT,
                message_id=message.message_id,
                type=message.type,
                headers=dict(message.headers) or None,
            ),
            mandatory=True,
        )

    def _on_confirm(self, frame: Method[Basic.Ack | Basic.Nack]) -> None:
        confirm = frame.method
        self._window.confirm(confirm.delivery_tag, multiple=confirm.multiple, is_ack=isinstance(confirm, Basic.Ack))

    def _on_return(self, _channel: object, method: Basic.Return, properties: BasicProperties, _body: bytes) -> None:
        self._window.give_back(properties.message_id, f"returned: {method.reply_code} {method.reply_text}")
