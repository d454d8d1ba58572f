"""Recreates wallet_stats and fraud_alerts from the whole log, in one database transaction, while the system runs.

1. Lock the projections and the inbox against workers, then take the snapshot: from here on every event is either
   already counted (and in the snapshot) or not counted yet.
2. Delete the rows and write them again: totals from sums by wallet and type, alerts from each wallet's withdrawals in
   order of time, by the worker's own statements. A row that existed keeps its creation time and, if its totals are
   unchanged, its update time.
3. Enter every event of the snapshot in the inbox as processed. Its message may still be delivered, now or from a dead
   letter: the inbox recognises it, so no event counts twice. Events committed in the meantime are neither in the
   snapshot nor in the inbox, and are delivered as usual.

- Workers wait for the lock and retry; no message becomes a dead letter because of it. The api reads the old rows until
  the commit and never waits. The worker's checkpoint in the journal is unchanged: the inbox recognises the events that
  are read again.
- A failed event is in the log, so a rebuild applies its effect. Its dead letter stays open until an operator closes it;
  a replay of it does no harm.
- If the log contains an event of a newer program, which this one can't fold, nothing is changed.
- Bounds: some thousand wallets or alerts in memory, sorts on the server's disk, and a lock for the whole duration.
- A crash leaves the rows unchanged; running it twice gives the same rows.
"""

import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from wallet.domain.analytics import Activity, LoggedEvent, WalletTotals, merge, totals_of_activity
from wallet.domain.events import EVENT_TYPES, SCHEMA_VERSION, FundsWithdrawn
from wallet.domain.identifiers import WalletId
from wallet.fraud.rules import Alert, FraudRules, Watch
from wallet.postgres.connections import Connection
from wallet.postgres.session import session
from wallet.postgres.statements import load_statements
from wallet.worker.effects import add_totals, alert_key, in_transaction, insert_alerts

# A worker's transaction takes some milliseconds, or 5 seconds at most if the worker is suspended in the middle.
LOCK_MS: Final = 10_000
STATEMENT_SECONDS: Final = 3600.0
ROWS_WRITTEN: Final = 5_000

_SQL: Final = load_statements("wallet.worker", "rebuild.sql")


class UnknownEvents(Exception):
    """The log holds events that this program does not know."""


@dataclass(slots=True)
class Rebuilt:
    """The result of a rebuild: rows, the number of events, and how many of these had not been processed before."""

    wallet_count: int = 0
    alert_count: int = 0
    event_count: int = 0
    entered_count: int = 0
    seconds: float = 0.0


async def rebuild(dsn: str, rules: FraudRules) -> Rebuilt:
    """Rebuild the projections. Raises UnknownEvents, NotMigrated, or one of DATABASE_ERRORS."""
    started = time.monotonic()
    async with session(
        dsn, application_name="wallet rebuild", lock_ms=LOCK_MS, statement_seconds=STATEMENT_SECONDS
    ) as connection:
        rebuilt = await in_transaction(connection, partial(_rebuild, connection, rules), isolation="repeatable_read")
    rebuilt.seconds = time.monotonic() - started
    return rebuilt


async def _rebuild(connection: Connection, rules: FraudRules) -> Rebuilt:
    rebuilt = Rebuilt()
    await connection.execute(_SQL.lock_projections)
    await _expect_known_events(connection)
    await connection.execute(_SQL.keep_stats)
    await connection.execute(_SQL.delete_stats)
    await connection.execute(_SQL.delete_alerts)
    await _write_totals(connection, rebuilt)
    await _write_alerts(connection, rules, rebuilt)
    await connection.execute(_SQL.restore_times)
    now = await connection.fetchval(_SQL.read_clock)
    for statement in (_SQL.enter_failed, _SQL.enter_new):
        rebuilt.entered_count += _count(await connection.execute(statement, now))
    return rebuilt


async def _expect_known_events(connection: Connection) -> None:
    row = await connection.fetchrow(_SQL.find_unknown_event, SCHEMA_VERSION, list(EVENT_TYPES))
    if row is not None:
        raise UnknownEvents(
            f"Version {row['version']} of wallet {row['wallet_id']} is {row['type']} with schemaVersion "
            f"{row['schema_version']}, which a newer program wrote: rebuild with that one. Nothing was changed."
        )


async def _write_totals(connection: Connection, rebuilt: Rebuilt) -> None:
    totals: dict[WalletId, WalletTotals] = {}
    async for row in _stream(connection, _SQL.read_activity):
        wallet_id = row["wallet_id"]
        if wallet_id not in totals and len(totals) == ROWS_WRITTEN:
            await add_totals(connection, totals)
            rebuilt.wallet_count += len(totals)
            totals.clear()
        activity = Activity(wallet_id, row["type"], row["is_receiver"], row["amount"], row["occurred_at"])
        added = totals_of_activity(activity)
        totals[wallet_id] = merge(totals[wallet_id], added) if wallet_id in totals else added
        rebuilt.event_count += 0 if row["is_receiver"] else row["event_count"]
    await add_totals(connection, totals)
    rebuilt.wallet_count += len(totals)


async def _write_alerts(connection: Connection, rules: FraudRules, rebuilt: Rebuilt) -> None:
    wallet_id, watch = None, Watch(rules)
    alerts: list[Alert] = []
    async for row in _stream(connection, _SQL.read_withdrawals):
        if row["wallet_id"] != wallet_id:
            wallet_id, watch = row["wallet_id"], Watch(rules)
        alerts += watch.see(
            LoggedEvent(
                row["event_id"], row["wallet_id"], FundsWithdrawn.__name__, row["amount"], row["occurred_at"], None
            )
        )
        if len(alerts) >= ROWS_WRITTEN:
            rebuilt.alert_count += await _insert(connection, alerts)
            alerts.clear()
    rebuilt.alert_count += await _insert(connection, alerts)


async def _insert(connection: Connection, alerts: Iterable[Alert]) -> int:
    return len(await insert_alerts(connection, sorted(alerts, key=alert_key)))


async def _stream(connection: Connection, statement: str) -> AsyncIterator[Any]:
    """Yields the rows of a statement, some thousand in memory at a time."""
    cursor = await connection.cursor(statement)
    while rows := await cursor.fetch(ROWS_WRITTEN):
        for row in rows:
            yield row


def _count(status: str) -> int:
    """Returns the number in a command tag, such as `UPDATE 3`."""
    return int(status.rsplit(" ", 1)[1])
