"""Takes the messages of closed letters out of the dead-letter queue, and leaves the others where they are.

AMQP can't delete one message of a queue. So a pass gets the messages one by one without acknowledging them, asks
whose letters are closed, acknowledges those, and closes its connection: that gives back all others at once, and a
classic queue puts them where they were, however often it is done. (A nack would give back those that were got one by
one, each by a walk through the queue: seven seconds for 5,000, where closing takes a hundredth of one.)

Of an open letter one message stays: a letter is a body, so a second message with the same one says nothing new. A
message without a letter is not ours to judge, and stays.

- Bounded: a pass ends with the last message that was there when it began. Of each message it keeps a digest.
- A crash gives back whatever was not acknowledged: the next pass finds it.
- Nobody else sees a message while a pass holds it. So it asks once more about those it gave back, and passes again
  if one was closed meanwhile: two operators at once leave no message behind that each believes the other took.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from hashlib import sha256
from typing import Final

from pika import BasicProperties
from pika.spec import Basic

from wallet.rabbitmq.connection import BrokerChannel, ChannelRefused, connect
from wallet.rabbitmq.topology import DEAD_LETTER_QUEUE

AreOpen = Callable[[Collection[bytes]], Awaitable[Mapping[bytes, bool]]]
"""Given sha256 digests of bodies: whether the letter of each is open. One that is left out has no letter."""

PASSES_MAX: Final = 5
"""Each further pass needs another operator who closed a letter just then."""
_ASKED_AT_ONCE: Final = 200
_NOT_FOUND: Final = 404


async def take_out_closed(url: str, are_open: AreOpen, *, name: str) -> int:
    """Take out what no open letter needs; returns how many messages of closed letters that were.

    Raises BrokerUnavailable or InvalidBrokerAddress.
    """
    taken = 0
    for _ in range(PASSES_MAX):
        taken_now, given_back = await _pass(url, are_open, name)
        taken += taken_now
        if not given_back or False not in (await are_open(given_back)).values():
            break
    return taken


async def _pass(url: str, are_open: AreOpen, name: str) -> tuple[int, set[bytes]]:
    """How many messages were taken out, and the digests of those given back."""
    taken, given_back = 0, set[bytes]()
    connection = await connect(url, name=name)
    try:
        getter = _Getter(await connection.open_channel())
        async for messages in getter.groups():
            is_open = await are_open({digest for _, digest in messages})
            for tag, digest in messages:
                if digest in is_open and (not is_open[digest] or digest in given_back):
                    getter.acknowledge(tag)
                    taken += not is_open[digest]
                else:
                    given_back.add(digest)
    except ChannelRefused as refusal:
        if refusal.code != _NOT_FOUND:
            raise
    finally:
        await connection.close()
    return taken, given_back


class _Getter:
    """Gets messages as (delivery tag, digest of the body)."""

    def __init__(self, channel: BrokerChannel) -> None:
        self._channel = channel
        self._replied = asyncio.Event()
        self._got: tuple[int, bytes] | None = None
        self._behind_count = 0
        channel.pika.add_callback(lambda _frame: self._replied.set(), [Basic.GetEmpty], one_shot=False)

    async def groups(self) -> AsyncIterator[list[tuple[int, bytes]]]:
        """The messages that are in the queue now, in groups; those that come meanwhile are left."""
        first = await self._get()
        if first is None:
            return
        unseen_count = self._behind_count
        group = [first]
        while unseen_count and (message := await self._get()) is not None:
            unseen_count -= 1
            group.append(message)
            if len(group) == _ASKED_AT_ONCE:
                yield group
                group = []
        if group:
            yield group

    def acknowledge(self, tag: int) -> None:
        """Let a message go for good."""
        self._channel.send(self._channel.pika.basic_ack, delivery_tag=tag)

    async def _get(self) -> tuple[int, bytes] | None:
        self._replied.clear()
        self._got = None
        self._channel.send(self._channel.pika.basic_get, queue=DEAD_LETTER_QUEUE, callback=self._on_message)
        await self._channel.reply(self._replied)
        return self._got

    def _on_message(self, _channel: object, method: Basic.GetOk, _properties: BasicProperties, body: bytes) -> None:
        assert method.delivery_tag is not None
        self._got = (method.delivery_tag, sha256(body).digest())
        self._behind_count = method.message_count or 0
        self._replied.set()
