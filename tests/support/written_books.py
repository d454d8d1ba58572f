"""Books with every kind of content, written by the real ledger, relay and worker, always in the same order.

| position | wallet and versions |
|---|---|
| 1 | alice 1-2: created by a deposit of 100 (key a1) |
| 2 | alice 3: a withdrawal of 30 (a2) |
| 3 | none: a withdrawal of 1,000 from alice, refused (a3) |
| 4 | alice 4-6, bob 1-2: a transfer of 25, in one database transaction (t1) |
| 5 | dora 1-2: created by a deposit of 50,000 |
| 6-8 | dora 3-5: withdrawals of 12,000, 1 and 1: suspicious |
| 9-11 | alice 7-8, carol 1-2, alice 9: a transfer of 10, stepwise (t2) |
| 12-111 | rich: filled to the limit |
| 112-113 | dora 6-7, dora 8-9: a transfer of 5 to rich, stepwise, refused by the receiver (t3) |
| 114 | eve 1-2: a deposit of 7 (e1), the last one sealed |
| – | frank 1-2: a deposit of 1, and a refused withdrawal: not sealed |
"""

from collections.abc import Iterable
from typing import Final

from tests.support.database import connected
from tests.support.ledger import deposit, running_ledger, send, transfer, withdraw
from tests.support.waiting import eventually
from tests.support.worker import running_worker
from wallet.domain.commands import Command
from wallet.ledger.ledger import Ledger
from wallet.relay.lease import JOURNAL
from wallet.relay.seal import seal_batches

LAST_POSITION: Final = 114
UNPROCESSED: Final = """
select count(*) from events e join journal j using (batch_id)
where j.published_at is not null and not exists (
    select from processed_events p where p.bucket = e.bucket and p.event_id = e.event_id and p.status = 'success')
"""


async def write_books(database_url: str) -> None:
    """Write the books into an empty, migrated database; no session is connected to it afterwards."""
    async with running_ledger(database_url) as ledger:
        await _send_in_order(
            ledger,
            [
                deposit("alice", 100, "a1"),
                withdraw("alice", 30, "a2"),
                withdraw("alice", 1000, "a3"),
                transfer("alice", "bob", 25, "t1"),
                deposit("dora", 50_000),
                *(withdraw("dora", amount) for amount in (12_000, 1, 1)),
            ],
        )
    async with running_ledger(database_url, is_stepwise=True) as ledger:
        await _send_in_order(ledger, [transfer("alice", "carol", 10, "t2")])
        await _send_in_order(ledger, [deposit("rich", 10**14) for _ in range(99)])
        await _send_in_order(ledger, [deposit("rich", "99999999999999.9999"), transfer("dora", "rich", 5, "t3")])
        await _send_in_order(ledger, [deposit("eve", 7, "e1")])
    assert await seal_all(database_url) == LAST_POSITION
    await process_all(database_url)
    async with running_ledger(database_url) as ledger:
        await _send_in_order(ledger, [deposit("frank", 1), withdraw("frank", 100)])


async def seal_all(database_url: str) -> int:
    """Seal all waiting batches, as a relay without a broker does. Returns how many it sealed."""
    async with connected(database_url) as connection:
        lease = await JOURNAL.take(connection, "test")
        assert lease is not None
        sealed = 0
        while count := await seal_batches(connection, lease, is_published=True):
            sealed += count
        await lease.release(connection)
    return sealed


async def process_all(database_url: str) -> None:
    """Run a worker until it has handled all published events."""
    async with connected(database_url) as connection, running_worker(database_url, None):

        async def is_processed() -> bool:
            return bool(await connection.fetchval(UNPROCESSED) == 0)

        await eventually(is_processed, within=30)


async def _send_in_order(ledger: Ledger, commands: Iterable[Command]) -> None:
    """Execute commands one at a time, so that each is a separate batch."""
    for command in commands:
        await send(ledger, command)
