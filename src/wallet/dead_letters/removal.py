"""Takes closed letters' messages out of RabbitMQ's dead-letter queue: the last step of a replay and a discard.

The table decides; the queue only follows it. What a crash left there goes with the next replay or discard.
"""

from collections.abc import Collection
from typing import Final

from wallet.postgres.connections import Connection
from wallet.postgres.statements import load_statements
from wallet.rabbitmq.dead_letter_queue import take_out_closed
from wallet.runtime.failpoints import failpoint

_ARE_OPEN: Final[str] = load_statements("wallet.dead_letters", "dead_letters.sql").are_open


async def remove_closed(connection: Connection, rabbitmq_url: str) -> int:
    """Take out the messages of closed letters, those of earlier commands too; returns how many they were.

    Raises BrokerUnavailable.
    """

    async def are_open(digests: Collection[bytes]) -> dict[bytes, bool]:
        # A message is in the queue only after its letter was committed, so this, asked later, never calls an open
        # letter closed.
        rows = await connection.fetch(_ARE_OPEN, list(digests))
        return {row["body_sha256"]: row["is_open"] for row in rows}

    await failpoint("dlq.before_remove")
    return await take_out_closed(rabbitmq_url, are_open, name="wallet dlq")
