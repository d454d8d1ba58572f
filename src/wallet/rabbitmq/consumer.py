"""Takes messages from the worker's queue in groups.

How the worker uses it:

    async with Consumer.open(url, topology) as consumer:
        while not stopping:
            try:
                group = await consumer.next_group()      # waits for the first message, then a few ms for more
            except BrokerUnavailable:
                continue                                 # the next call waits for its back-off and reconnects
            … one database transaction …
            await consumer.ack(group)                    # after COMMIT, never before

- `open` does not connect yet: a worker may start before its broker. Each `next_group` makes at most one attempt
  to connect (after a back-off that grows while attempts fail), declares the topology again and consumes.
- A lost connection raises BrokerUnavailable once, from `next_group`. Unacknowledged messages return to the queue and
  are delivered again, `redelivered`, with new tags. `ack` ignores a delivery of a lost connection.
- `ack` sends one multiple ack if that covers only the given messages, single ones otherwise: it never acknowledges a
  message that the caller did not name. So the order of `reject` and `ack` cannot lose a message.
- Memory is bounded. For large headers only their number is kept. A body is kept up to BODY_STORED_BYTES_MAX, with
  its length and digest. When the bodies of unacknowledged messages reach UNACKNOWLEDGED_BYTES_MAX, the consumer
  cancels itself, discards messages that still arrive, and reconnects when the messages it has kept are
  acknowledged; then the others are delivered again. As the broker's prefetch counts messages, not bytes, the next
  connection uses a smaller prefetch.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from itertools import takewhile
from typing import Any, Final, NoReturn, Self

import structlog
from pika import BasicProperties
from pika.spec import Basic

from wallet.domain.money import Value
from wallet.rabbitmq.connection import UNREADABLE, BrokerChannel, BrokerConnection, BrokerUnavailable, connect
from wallet.rabbitmq.topology import WORKER_QUEUE, Topology, declare
from wallet.runtime.loop import Backoff
from wallet.runtime.started import Started, report_started
from wallet.wire.envelope import BODY_STORED_BYTES_MAX, WholeBody

GROUP_SIZE_MAX: Final = 200
GATHER_SECONDS: Final = 0.005
HEADER_VALUES_MAX: Final = 1_000
"""The limit for one message; a long text counts as several. A broker that moves a message adds about ten."""
_CHARACTERS_OF_A_VALUE: Final = 64
GROUP_BYTES_MAX: Final = 8 * 1024 * 1024
"""All bodies of a group may have to be stored as dead letters within the time limit of a transaction."""
UNACKNOWLEDGED_BYTES_MAX: Final = 32 * 1024 * 1024
FULL_PREFETCH_AFTER: Final = 10_000
"""After this many messages on a connection with a smaller prefetch, the full prefetch is tried again."""
# The current group and the next one: while one is committed the other arrives.
_PREFETCH_GROUPS: Final = 2
_CONSUMER_TAG: Final = "wallet"
_RECONNECT_SECONDS_MIN: Final = 0.1
_RECONNECT_SECONDS_MAX: Final = 5.0

log = structlog.get_logger()


class Delivery(Value, frozen=True):
    """One message as it was delivered. `session` is the number of the connection, because tags start again with each
    one.

    Header values are text, numbers, booleans, None, bytes, datetime, Decimal, and lists and dicts of them. If `body` is
    only the beginning of the body, `whole` describes the whole.
    """

    body: bytes
    message_id: str | None
    type: str | None
    headers: Mapping[str, Any]
    redelivered: bool
    tag: int
    session: int = 0
    whole: WholeBody | None = None


class Consumer:
    """One consumer of the worker's queue; used by one task. Created by `open`."""

    def __init__(self, url: str, topology: Topology, *, group_size_max: int) -> None:
        self._url = url
        self._topology = topology
        self._group_size_max = group_size_max
        self._session: _Session | None = None
        self._session_count = 0
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._backoff = Backoff(seconds_min=_RECONNECT_SECONDS_MIN, seconds_max=_RECONNECT_SECONDS_MAX)
        self._is_retrying = False
        self._prefetch = self._prefetch_max

    @property
    def _prefetch_max(self) -> int:
        return self._group_size_max * _PREFETCH_GROUPS

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, topology: Topology, *, group_size_max: int = GROUP_SIZE_MAX) -> AsyncIterator[Self]:
        """Yields a consumer, which connects at the first `next_group`. Unacknowledged messages return to the queue at
        the end.
        """
        consumer = cls(url, topology, group_size_max=group_size_max)
        try:
            yield consumer
        finally:
            await consumer._end_session()

    async def next_group(self, size_max: int | None = None) -> list[Delivery]:
        """Returns the next 1 to `size_max` messages, in the order of arrival. Waits for the first; may be cancelled.

        Acknowledge the group before the next call. Raises BrokerUnavailable (the next call reconnects) or
        TopologyMismatch (an operator has to fix it; the next call tries again). While paused it waits for `resume`.
        """
        size_max = min(size_max or self._group_size_max, self._group_size_max)
        await self._resumed.wait()
        session = self._session
        if session is not None and not session.waiting and session.is_spent:
            await self._change_prefetch(session)
            session = None
        session = session or await self._begin_session()
        await session.arrived.wait()
        if session.is_open and len(session.waiting) < size_max:
            await session.gather()
        if not session.is_open and not session.is_full:
            await self._lose(session)
        return session.take(size_max)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge messages whose effects are committed. Never raises for a lost connection: they will be delivered
        again.
        """
        if self._session is not None:
            self._session.ack({delivery.tag for delivery in deliveries if delivery.session == self._session.number})

    async def reject(self, delivery: Delivery) -> None:
        """Reject one message to the dead-letter queue. Never raises for a lost connection: it is delivered again."""
        if self._session is not None and delivery.session == self._session.number:
            self._session.reject(delivery.tag)

    async def pause(self) -> None:
        """Stop consuming: every unacknowledged message returns to the queue at once. Safe to call when paused."""
        self._resumed.clear()
        await self._end_session()

    async def resume(self) -> None:
        """Resume consuming with the next `next_group`."""
        self._resumed.set()

    async def _begin_session(self) -> "_Session":
        if self._is_retrying:
            await self._backoff.wait()
        self._is_retrying = True
        connection = await connect(self._url, name="wallet worker")
        try:
            channel = await connection.open_channel()
            await declare(channel, self._topology)
            self._session_count += 1
            session = _Session(
                connection,
                channel,
                self._session_count,
                group_size_max=self._group_size_max,
                prefetch=self._prefetch,
                is_prefetch_reduced=self._prefetch < self._prefetch_max,
            )
            await session.consume()
        except BaseException:
            await connection.close()
            raise
        self._session = session
        self._is_retrying = False
        self._backoff.reset()
        log.info("consumer_connected", address=connection.address, session=session.number)
        report_started(Started.CONSUMES)
        return session

    async def _change_prefetch(self, session: "_Session") -> None:
        """End a connection whose prefetch does not fit the size of its messages."""
        if session.is_full:
            self._prefetch = min(self._prefetch_max, max(1, UNACKNOWLEDGED_BYTES_MAX // session.largest_bytes))
            log.warning("prefetch_reduced", prefetch=self._prefetch, largest_bytes=session.largest_bytes)
        else:
            self._prefetch = self._prefetch_max
        await self._end_session()

    async def _lose(self, session: "_Session") -> NoReturn:
        self._is_retrying = True
        try:
            session.channel.raise_if_closed()
        finally:
            await self._end_session()
        raise BrokerUnavailable("RabbitMQ cancelled the consumer: its queue was deleted or is moving")

    async def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.connection.close()


class _Session:
    """The consumer of one connection: the messages that have arrived, and those that are not acknowledged yet."""

    def __init__(
        self,
        connection: BrokerConnection,
        channel: BrokerChannel,
        number: int,
        *,
        group_size_max: int,
        prefetch: int,
        is_prefetch_reduced: bool,
    ) -> None:
        self.connection = connection
        self.channel = channel
        self.number = number
        self.waiting: deque[Delivery] = deque()
        self.arrived = asyncio.Event()
        self.largest_bytes = 1
        self.is_full = False
        self._group_size_max = group_size_max
        self._prefetch = prefetch
        self._is_prefetch_reduced = is_prefetch_reduced
        self._has_group = asyncio.Event()
        self._bytes_by_tag: dict[int, int] = {}
        self._unacknowledged_bytes = 0
        self._message_count = 0
        self._is_cancelled = False

    @property
    def is_open(self) -> bool:
        """Returns whether messages can still arrive and be acknowledged."""
        return self.channel.pika.is_open and not self._is_cancelled

    @property
    def is_spent(self) -> bool:
        """Returns whether the next connection should use a different prefetch."""
        return self.is_full or (self._is_prefetch_reduced and self._message_count >= FULL_PREFETCH_AFTER)

    async def consume(self) -> None:
        """Start consuming; messages arrive by callback."""
        self.channel.watch(self.arrived)
        self.channel.watch(self._has_group)
        raw = self.channel.pika
        raw.add_on_cancel_callback(lambda _frame: self._on_cancel())
        await self.channel.call(raw.basic_qos, prefetch_count=self._prefetch)
        await self.channel.call(
            raw.basic_consume,
            queue=WORKER_QUEUE,
            on_message_callback=self._on_message,
            consumer_tag=_CONSUMER_TAG,
        )

    async def gather(self) -> None:
        """Wait a moment for a full group."""
        self._has_group.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_SECONDS):
                await self._has_group.wait()

    def take(self, count_max: int) -> list[Delivery]:
        """Take messages that have arrived: at most `count_max`, and at most GROUP_BYTES_MAX of bodies unless one body
        is longer.
        """
        group: list[Delivery] = []
        group_bytes = 0
        while self.waiting and len(group) < count_max:
            group_bytes += len(self.waiting[0].body)
            if group and group_bytes > GROUP_BYTES_MAX:
                break
            group.append(self.waiting.popleft())
        if not self.waiting:
            self.arrived.clear()
        return group

    def ack(self, tags: set[int]) -> None:
        """Acknowledge only these tags: by one multiple ack if every older tag is acknowledged or among them."""
        asked = sorted(tags & self._bytes_by_tag.keys())
        if not asked:
            return
        older = list(takewhile(lambda tag: tag <= asked[-1], self._bytes_by_tag))
        if len(older) == len(asked):
            self._acknowledge(self.channel.pika.basic_ack, asked, delivery_tag=asked[-1], multiple=True)
            return
        for tag in asked:
            self._acknowledge(self.channel.pika.basic_ack, [tag], delivery_tag=tag)

    def reject(self, tag: int) -> None:
        """Dead-letter one message."""
        if tag in self._bytes_by_tag:
            self._acknowledge(self.channel.pika.basic_nack, [tag], delivery_tag=tag, requeue=False)

    def _acknowledge(self, method: Callable[..., object], tags: Sequence[int], **arguments: Any) -> None:
        for tag in tags:
            self._unacknowledged_bytes -= self._bytes_by_tag.pop(tag)
        try:
            self.channel.send(method, **arguments)
        except BrokerUnavailable:
            log.debug("acknowledgement_dropped", session=self.number, count=len(tags))

    def _on_message(self, _channel: object, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        tag = method.delivery_tag
        assert tag is not None
        kept = body if len(body) <= BODY_STORED_BYTES_MAX else body[:BODY_STORED_BYTES_MAX]
        if self.is_full or (self._bytes_by_tag and self._unacknowledged_bytes + len(kept) > UNACKNOWLEDGED_BYTES_MAX):
            self._stop_consuming()
            return
        self._message_count += 1
        self.largest_bytes = max(self.largest_bytes, len(kept))
        self._bytes_by_tag[tag] = len(kept)
        self._unacknowledged_bytes += len(kept)
        self.waiting.append(
            Delivery(
                kept,
                properties.message_id,
                properties.type,
                _kept(properties.headers or {}),
                bool(method.redelivered),
                tag,
                self.number,
                None if kept is body else WholeBody(len(body), sha256(body).digest()),
            )
        )
        self.arrived.set()
        if len(self.waiting) >= self._group_size_max:
            self._has_group.set()

    def _stop_consuming(self) -> None:
        """Stop keeping messages: a message that is not kept stays unacknowledged, and returns to the queue with this
        connection.
        """
        if not self.is_full:
            self.is_full = True
            self._has_group.set()
            with suppress(BrokerUnavailable):
                self.channel.send(self.channel.pika.basic_cancel, consumer_tag=_CONSUMER_TAG)

    def _on_cancel(self) -> None:
        self._is_cancelled = True
        self.arrived.set()
        self._has_group.set()


def _kept(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the headers as plain values. If they would need too much memory, only their number."""
    if not headers:
        return {}
    values_left = HEADER_VALUES_MAX
    waiting: list[Any] = [headers]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            values_left -= len(value)
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str | bytes):
            values_left -= len(value) // _CHARACTERS_OF_A_VALUE
        if values_left < 0:
            return {UNREADABLE: f"{len(headers)} headers, too large to keep"}
    try:
        plain: Mapping[str, Any] = _plain(headers)
    except RecursionError:
        return {UNREADABLE: f"{len(headers)} headers, nested too deep"}
    return plain


def _plain(value: Any) -> Any:
    """Returns a header's value without pika's own integer type, which other encoders don't know."""
    match value:
        case dict():
            return {name: _plain(part) for name, part in value.items()}
        case list():
            return [_plain(part) for part in value]
        case int() if not isinstance(value, bool):
            return int(value)
        case _:
            return value
