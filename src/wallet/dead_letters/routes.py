"""The two routes back to the handlers: the worker's queue, or, with the embedded transport, a direct call."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

from wallet.dead_letters.reading import StoredMessage
from wallet.domain.identifiers import BIGINT_MAX
from wallet.fraud.rules import FraudRules
from wallet.postgres.connections import Connection
from wallet.rabbitmq.connection import BrokerUnavailable
from wallet.rabbitmq.publisher import OutgoingMessage, Publisher
from wallet.rabbitmq.topology import Topology
from wallet.runtime.settings import Settings
from wallet.worker.handle import handle_group
from wallet.worker.messages import check_messages

PUBLISH_SECONDS_MAX: Final = 15.0
_SHORT_STRING_BYTES_MAX: Final = 255
# Headers in which the broker recorded the message's path so far. If we sent them again, they would describe the new
# delivery wrongly.
_BROKERS_HEADERS: Final = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")


class ReplayRoute(Protocol):
    """Delivers a stored message to the handlers again."""

    @property
    def is_direct(self) -> bool:
        """Returns whether `bring` also handles the message before it returns."""

    async def bring(self, message: StoredMessage) -> bool:
        """Deliver one message. Returns False if it is known to have failed; the failure is then stored in its dead
        letter.
        """


@asynccontextmanager
async def open_route(settings: Settings, connection: Connection) -> AsyncIterator[ReplayRoute]:
    """Yields the route for the configured transport. Raises BrokerUnavailable, TopologyMismatch or
    InvalidBrokerAddress.
    """
    if settings.amqp_url is None:
        yield StraightToHandlers(connection, FraudRules.of(settings))
        return
    topology = Topology(settings.rabbitmq_exchange, settings.rabbitmq_dlx)
    async with Publisher.open(settings.amqp_url, topology, name="wallet dlq") as publisher:
        yield ToWorkerQueue(publisher)


class StraightToHandlers:
    """Runs the worker's handlers in this process, with the same rules and retries. Raises what they raise."""

    is_direct = True

    def __init__(self, connection: Connection, rules: FraudRules) -> None:
        self._connection = connection
        self._rules = rules

    async def bring(self, message: StoredMessage) -> bool:
        """Handle the message."""
        return not (await handle_group(self._connection, [message], self._rules, check=check_messages)).refused


class ToWorkerQueue:
    """Publishes to the worker's queue only, not to the exchange, because other teams' queues have already received the
    event.

    Raises BrokerUnavailable or NotPublished. The message may then be on the queue or not; the inbox ignores a
    duplicate.
    """

    is_direct = False

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def bring(self, message: StoredMessage) -> bool:
        """Publish the message and wait for the broker's confirm."""
        headers = {
            name: value for name, value in _fields(message.headers).items() if not name.startswith(_BROKERS_HEADERS)
        }
        ready = OutgoingMessage(message.body, _short(message.message_id), _short(message.type), headers)
        try:
            async with asyncio.timeout(PUBLISH_SECONDS_MAX):
                await self._publisher.publish_to_worker_queue(ready)
        except TimeoutError:
            raise BrokerUnavailable(
                f"RabbitMQ accepted no message within {PUBLISH_SECONDS_MAX:g} s; "
                "perhaps its memory or disk alarm is on."
            ) from None
        return True


def _short(text: str | None) -> str | None:
    return None if text is None else text.encode()[:_SHORT_STRING_BYTES_MAX].decode(errors="ignore")


def _fields(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the headers that AMQP can carry: the stored ones may have longer names and larger numbers."""
    return {_short(name) or "": _field(value) for name, value in headers.items()}


def _field(value: Any) -> Any:
    match value:
        case dict():
            return _fields(value)
        case list():
            return [_field(part) for part in value]
        case int() if abs(value) > BIGINT_MAX:
            return str(value)
        case _:
            return value
