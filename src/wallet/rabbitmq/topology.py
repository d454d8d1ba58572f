"""Exchanges and queues of RabbitMQ, in one table, declared by the first process to start."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from wallet.rabbitmq.connection import BrokerChannel, ChannelRefused

WORKER_QUEUE: Final = "wallet.events.worker"
DEAD_LETTER_QUEUE: Final = "wallet.events.worker.dlq"

# The limit is high, so that only the worker decides which message becomes a dead letter: by default RabbitMQ 4 would
# remove a message after 20 deliveries, which an outage of the database reaches in a minute. A negative limit drops
# messages on 3.10.
_DELIVERY_LIMIT: Final = 1_000_000
_PRECONDITION_FAILED: Final = 406


class TopologyMismatch(Exception):
    """An exchange or queue exists with other properties than ours; the message names it and the cure."""


@dataclass(frozen=True, slots=True)
class Topology:
    """The names that settings choose."""

    exchange: str = "wallet.events"
    dead_letter_exchange: str = "wallet.events.dlx"

    def __post_init__(self) -> None:
        if self.exchange == self.dead_letter_exchange:
            raise ValueError("RABBITMQ_EXCHANGE and RABBITMQ_DLX must differ: dead letters would come back as events")


@dataclass(frozen=True, slots=True)
class _Row:
    kind: Literal["exchange", "queue"]
    name: str
    setting: str = ""
    bound_to: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _rows(topology: Topology) -> tuple[_Row, ...]:
    """Returns the table in the order of declaration: destinations come before the exchanges that route to them.

    Both exchanges are durable fanouts, so no routing key decides whether a message arrives.
    """
    return (
        _Row("exchange", topology.dead_letter_exchange, setting="RABBITMQ_DLX"),
        # A classic queue: a quorum queue with a delivery limit would be emptied by reading it.
        _Row(
            "queue",
            DEAD_LETTER_QUEUE,
            bound_to=topology.dead_letter_exchange,
            arguments={"x-queue-type": "classic"},
        ),
        _Row("exchange", topology.exchange, setting="RABBITMQ_EXCHANGE"),
        _Row(
            "queue",
            WORKER_QUEUE,
            bound_to=topology.exchange,
            arguments={
                "x-queue-type": "quorum",
                "x-delivery-limit": _DELIVERY_LIMIT,
                "x-dead-letter-exchange": topology.dead_letter_exchange,
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        ),
    )


async def declare(channel: BrokerChannel, topology: Topology) -> None:
    """Declare what is missing. Raises TopologyMismatch if something exists but differs, or BrokerUnavailable."""
    for row in _rows(topology):
        try:
            await _declare_row(channel, row)
        except ChannelRefused as refusal:
            if refusal.code != _PRECONDITION_FAILED:
                raise
            raise TopologyMismatch(_cure(row, refusal.text)) from None


async def _declare_row(channel: BrokerChannel, row: _Row) -> None:
    if row.kind == "exchange":
        await channel.call(channel.pika.exchange_declare, exchange=row.name, exchange_type="fanout", durable=True)
        return
    await channel.call(channel.pika.queue_declare, queue=row.name, durable=True, arguments=dict(row.arguments))
    await channel.call(channel.pika.queue_bind, queue=row.name, exchange=row.bound_to, routing_key="")


def _cure(row: _Row, text: str) -> str:
    if row.kind == "exchange":
        return (
            f"The exchange {row.name} exists in RabbitMQ with other properties ({text}). "
            f"Set {row.setting} to another name, or delete the exchange if nobody uses it."
        )
    return (
        f"The queue {row.name} exists in RabbitMQ with other arguments ({text}). A queue can't be changed, "
        f"only replaced: rename it (move its messages to a queue of another name, then delete {row.name}), "
        "and it is declared again. If RABBITMQ_DLX was changed since, setting it back cures it too."
    )
