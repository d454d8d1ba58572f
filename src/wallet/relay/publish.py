"""Publishing: the events of sealed batches go to RabbitMQ in the journal's order, then the batches are marked.

One round: read the next batches (1 query) and their events (1 query) → send and confirm them window by window → mark
the batches whose events are all confirmed (1 transaction, fenced by the lease's token).

- After a crash, a lost connection or a lost lease before the mark, the batches are published again. Consumers detect
  repeated events by their ids.
- If the number of visible events of a batch is not `event_count`, the batch waits, and the other batches are published:
  on a distributed engine a transaction may become visible node by node.
- Memory is bounded by EVENTS_MAX events, or by one batch if that is larger.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, takewhile
from typing import Final
from uuid import UUID

import structlog
from asyncpg import Record

from wallet.postgres.connections import Connection
from wallet.postgres.lease import Lease
from wallet.postgres.statements import load_statements
from wallet.rabbitmq.publisher import NotPublished, OutgoingMessage, Publisher
from wallet.relay.lease import lock_head
from wallet.relay.polling_loop import Work
from wallet.runtime.failpoints import failpoint
from wallet.runtime.metrics import Counter, Metrics
from wallet.wire.envelope import StoredEvent, encode_envelope

BATCHES_MAX: Final = 500
EVENTS_MAX: Final = 2_000
WINDOW_SIZE: Final = 500
PUBLISHED: Final = Counter(
    "wallet_relay_events_published", "Events that RabbitMQ confirmed, including repeated ones.", process="relay"
)

_SQL: Final = load_statements("wallet.relay", "relay.sql")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Batch:
    batch_id: UUID
    position: int
    event_count: int
    messages: list[OutgoingMessage] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return len(self.messages) == self.event_count


class BatchPublisher:
    """Publishes and marks batches under one lease, over one connection to the broker."""

    def __init__(self, publisher: Publisher, lease: Lease, metrics: Metrics) -> None:
        self._publisher = publisher
        self._lease = lease
        self._metrics = metrics
        self._waiting: set[UUID] = set()

    async def publish_round(self, connection: Connection) -> Work:
        """Publish and mark the next batches.

        Raises LeaseLost, BrokerUnavailable, or NotPublished if the broker did not accept a message.
        """
        self._publisher.raise_if_lost()
        batches = await self._read_batches(connection)
        if not batches:
            # There are no other batches, so try the incomplete ones again in the next round.
            self._waiting.clear()
            return Work.NONE
        complete = [batch for batch in batches if batch.is_complete]
        self._remember_waiting([batch for batch in batches if not batch.is_complete])
        messages = [message for batch in complete for message in batch.messages]
        unpublished, reason = await self._publish(messages)
        await failpoint("relay.before_mark")
        await mark_published(
            connection,
            self._lease,
            [b.batch_id for b in complete if unpublished.isdisjoint(m.message_id for m in b.messages)],
        )
        self._metrics.add(PUBLISHED, len(messages) - len(unpublished))
        if unpublished:
            raise NotPublished(f"RabbitMQ did not take {len(unpublished)} events, the last {reason}")
        log.debug("batches_published", batch_count=len(complete), event_count=len(messages))
        return Work.MORE if len(batches) == BATCHES_MAX or len(messages) > EVENTS_MAX // 2 else Work.SOME

    async def _read_batches(self, connection: Connection) -> list[_Batch]:
        rows = await connection.fetch(_SQL.select_unpublished, list(self._waiting), BATCHES_MAX)
        sizes = accumulate(row["event_count"] for row in rows)
        within = sum(1 for _ in takewhile(lambda size: size <= EVENTS_MAX, sizes))
        batches = {row["batch_id"]: _Batch(**row) for row in rows[: max(within, 1)]}
        for row in await connection.fetch(_SQL.select_events, list(batches)) if batches else ():
            batch = batches[row["batch_id"]]
            batch.messages.append(_message(row, batch.position))
        return list(batches.values())

    async def _publish(self, messages: Sequence[OutgoingMessage]) -> tuple[set[str | None], str]:
        """Publish in order until one is refused. Returns the ids of the unpublished messages, and the reason."""
        for start in range(0, len(messages), WINDOW_SIZE):
            sent = messages[start : start + WINDOW_SIZE]
            window = await self._publisher.send(sent)
            await failpoint("relay.after_publish")
            refused = await self._publisher.wait_until_confirmed(window)
            if refused:
                unsent = messages[start + len(sent) :]
                return {sent[index].message_id for index in refused} | {m.message_id for m in unsent}, window.reason
        return set(), ""

    def _remember_waiting(self, batches: Sequence[_Batch]) -> None:
        for batch in batches:
            self._waiting.add(batch.batch_id)
            log.warning(
                "batch_waits_for_its_events",
                batch_id=str(batch.batch_id),
                position=batch.position,
                event_count=batch.event_count,
                visible_count=len(batch.messages),
            )


async def mark_published(connection: Connection, lease: Lease, batch_ids: Sequence[UUID]) -> None:
    """Set published_at of batches whose events are all confirmed. Raises LeaseLost."""
    if not batch_ids:
        return
    async with connection.transaction():
        await lock_head(connection, lease)
        now = await connection.fetchval(_SQL.read_clock)
        await connection.execute(_SQL.mark_published, now, batch_ids)


async def mark_without_broker(connection: Connection, lease: Lease) -> bool:
    """Set published_at of some batches that were sealed for a broker that is no longer used.

    Returns False if there are none. Raises LeaseLost.
    """
    rows = await connection.fetch(_SQL.select_unpublished, [], BATCHES_MAX)
    if not rows:
        return False
    async with connection.transaction():
        await lock_head(connection, lease)
        await connection.execute(_SQL.mark_as_sealed, [row["batch_id"] for row in rows])
    return True


def _message(row: Record, position: int) -> OutgoingMessage:
    event = StoredEvent(
        row["event_id"],
        row["type"],
        row["schema_version"],
        row["occurred_at"],
        row["wallet_id"],
        row["version"],
        row["payload_json"],
    )
    return OutgoingMessage(encode_envelope(event, position), str(event.event_id), event.type)
