"""Reads a run's wallets from the database: in the types of the stress tool's checks, and what no route shows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from asyncpg import Record

from tests.fault.load import History, Start
from tests.support.database import connected
from wallet.stress.findings import Evidence
from wallet.stress.histories import SIGNS, Shown, ShownEvent
from wallet.stress.operations import Key, WalletId
from wallet.stress.outcomes import ExpectedTotals

EVENTS = """
select e.wallet_id, e.event_id, e.type, e.occurred_at, e.amount, e.balance_after, e.transfer_id,
    e.payload ->> 'requestId' as request_id, j.seq, j.position, e.ordinal
from events e left join journal j using (batch_id)
where e.wallet_id = any($1) or e.payload ->> 'requestId' = any($2)
order by e.wallet_id, e.version
"""
BALANCES = "select wallet_id, balance from wallets where wallet_id = any($1)"
TOTALS = """
select wallet_id, total_deposited, total_withdrawn, total_transferred_out, total_transferred_in
from wallet_stats where wallet_id = any($1)
"""
OPERATIONS = """
select o.wallet_id, o.request_id, o.status, o.response, j.seq
from operations o left join journal j using (batch_id)
where o.wallet_id = any($1) or o.request_id = any($2)
"""

Place = tuple[int, int]
"""A batch's seq and the ordinal in it: the place of an event in the order of the journal."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The outcome stored for a key, and the seq of the batch that stored it; a pending operation has no answer yet."""

    status: int | None
    response: bytes | None
    seq: int | None


@dataclass(frozen=True, slots=True)
class Books(Evidence):
    """A run's evidence, including what no route shows."""

    places: dict[str, Place] = field(default_factory=dict)
    """The place of each event, by event id; an event that is in no batch has none."""
    sealed: dict[str, Place] = field(default_factory=dict)
    """The same with the position that the relay gave to the batch: the order in which consumers receive the events."""
    stored: dict[tuple[WalletId, Key], Stored] = field(default_factory=dict)
    starts: Sequence[Start] = ()
    """The start times of the processes to which the run's requests were sent."""
    elsewhere: list[tuple[WalletId, ShownEvent]] = field(default_factory=list)
    """Events of the run's keys on wallets that are not in the run's plan."""


async def read_evidence(database_url: str, history: History) -> Books:
    """Returns the wallets of the run's plan from one snapshot of the tables, with events in order of their versions."""
    wallet_ids = history.plan.wallet_ids
    keys = list({exchange.request.operation.key for exchange in history.exchanges})
    books = Books(wallet_ids, history.exchanges, starts=history.starts)
    async with (
        connected(database_url) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        events = await connection.fetch(EVENTS, wallet_ids, keys)
        balances = await connection.fetch(BALANCES, wallet_ids)
        totals = await connection.fetch(TOTALS, wallet_ids)
        operations = await connection.fetch(OPERATIONS, wallet_ids, keys)
    by_wallet = {wallet_id: tuple(map(_event, rows)) for wallet_id, rows in groupby(events, lambda row: row[0])}
    books.shown.update({wallet_id: Shown(events=by_wallet.pop(wallet_id, ())) for wallet_id in wallet_ids})
    books.shown.update({row[0]: Shown(row["balance"], books.shown[row[0]].events) for row in balances})
    books.elsewhere.extend((wallet_id, event) for wallet_id, rows in by_wallet.items() for event in rows)
    books.places.update({str(row["event_id"]): (row["seq"], row["ordinal"]) for row in events if row["seq"]})
    books.sealed.update({str(row["event_id"]): (row["position"], row["ordinal"]) for row in events if row["position"]})
    books.totals.update(dict.fromkeys(wallet_ids, ExpectedTotals()))
    books.totals.update({row["wallet_id"]: ExpectedTotals(*tuple(row)[1:]) for row in totals})
    books.stored.update({(row[0], row[1]): Stored(*tuple(row)[2:]) for row in operations})
    return books


def _event(row: Record) -> ShownEvent:
    return ShownEvent(
        event_id=str(row["event_id"]),
        type=row["type"],
        occurred_at=row["occurred_at"].isoformat(),
        moved=SIGNS.get(row["type"], 0) * row["amount"],
        new_balance=row["balance_after"],
        request_id=row["request_id"],
        transfer_id=None if row["transfer_id"] is None else str(row["transfer_id"]),
    )
