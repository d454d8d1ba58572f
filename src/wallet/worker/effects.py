"""Applies the effects of events: one database transaction for a group, in which each new event counts once.

1. Inbox: insert into processed_events, which returns the new rows. A duplicate is not processed further; an event that
   failed earlier gets its effect now.
2. Totals: one sorted upsert of wallet_stats. It locks the row of every wallet that an alert below may concern.
3. Rules: for each new withdrawal, read the Nth latest withdrawal from the log. This step and the next two run only if
   the rules look at an event.
4. Alerts: insert into fraud_alerts, which returns the new rows.
5. Suspicious: for each such wallet, store the reason of its earliest alert. The alerts are read in a later statement
   than the one that waited for the lock, so it sees the alerts of the session that had locked the wallet before.
6. Checkpoint: store the embedded transport's position. The update is fenced, so a worker that lost its lease commits
   nothing.

Then COMMIT. With BEGIN that is at most eight round trips, and four on RabbitMQ if nothing was withdrawn.

For each new fraud alert, one log line is written after COMMIT. The row in fraud_alerts is the record; the line only
notifies. A crash between COMMIT and the line loses the line, never the row, so a program that must not miss an alert
reads the table.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal, TypeVar
from uuid import UUID

import structlog

from wallet.domain.analytics import LoggedEvent, WalletTotals, fold
from wallet.domain.identifiers import EventId, WalletId, bucket_of
from wallet.domain.money import Value
from wallet.fraud.rules import Alert, FraudRules, Rule, is_watched, judge
from wallet.postgres.connections import Connection
from wallet.postgres.errors import DATABASE_ERRORS, Failure, failure_of
from wallet.postgres.statements import Columns, array_of, load_statements
from wallet.runtime.failpoints import failpoint
from wallet.runtime.loop import retried

CONFLICT_ATTEMPTS_MAX: Final = 8
CONFLICT_DELAY_SECONDS_MAX: Final = 0.25

MoveCheckpoint = Callable[[Connection], Awaitable[None]]
Result = TypeVar("Result")

_SQL: Final = load_statements("wallet.worker", "worker.sql")


class StatsRow(Value, frozen=True, kw_only=True):
    """What is added to one row of wallet_stats."""

    bucket: int
    wallet_id: WalletId
    deposited: Decimal
    withdrawn: Decimal
    transferred_out: Decimal
    transferred_in: Decimal
    last_activity_at: datetime


class AlertRow(Value, frozen=True, kw_only=True):
    """One row of fraud_alerts."""

    bucket: int
    wallet_id: WalletId
    rule: Rule
    event_id: EventId
    reason: str
    occurred_at: datetime


_STATS: Final = Columns(StatsRow)
_ALERTS: Final = Columns(AlertRow)
_log = structlog.get_logger()


async def commit_effects(
    connection: Connection,
    events: Sequence[LoggedEvent],
    rules: FraudRules,
    move_checkpoint: MoveCheckpoint | None = None,
) -> list[Alert]:
    """Apply the effects of the events, each once however often it is delivered. Returns the new alerts.

    All or nothing: if an error is raised, nothing took effect, or the outcome of a COMMIT is unknown; in both cases the
    same events may be passed again.
    """
    if not events and move_checkpoint is None:
        return []

    async def apply() -> list[Alert]:
        alerts = await _apply(connection, events, rules)
        if move_checkpoint is not None:
            await move_checkpoint(connection)
        await failpoint("worker.before_commit")
        return alerts

    return await in_transaction(connection, apply)


async def in_transaction(
    connection: Connection,
    work: Callable[[], Awaitable[Result]],
    isolation: Literal["repeatable_read"] | None = None,
) -> Result:
    """Run the work in a transaction, and retry it after a deadlock, a serialization failure or a lock time-out."""

    async def run() -> Result:
        async with connection.transaction(isolation=isolation):
            return await work()

    return await retried(
        run,
        attempts_max=CONFLICT_ATTEMPTS_MAX,
        errors=DATABASE_ERRORS,
        passes=lambda error: failure_of(error) in (Failure.RETRY, Failure.LOCKED),
        pause_seconds_max=CONFLICT_DELAY_SECONDS_MAX,
    )


async def _apply(connection: Connection, events: Iterable[LoggedEvent], rules: FraudRules) -> list[Alert]:
    fresh = await _enter_inbox(connection, events)
    if not fresh:
        return []
    await add_totals(connection, fold(fresh))
    alerts = await _judge(connection, [event for event in fresh if is_watched(event)], rules)
    if not alerts:
        return []
    return await insert_alerts(connection, alerts)


async def _enter_inbox(connection: Connection, events: Iterable[LoggedEvent]) -> list[LoggedEvent]:
    by_id = {event.event_id: event for event in events}
    keys = sorted((bucket_of(event.wallet_id), event.event_id) for event in by_id.values())
    if not keys:
        return []
    entered = await connection.fetch(
        _SQL.enter_inbox, array_of([bucket for bucket, _ in keys]), [event_id for _, event_id in keys]
    )
    return [by_id[row["event_id"]] for row in entered]


async def add_totals(connection: Connection, added_by_wallet: Mapping[WalletId, WalletTotals]) -> None:
    """Add to each wallet's row, which is created if it is missing, and is locked from then on."""
    rows = [
        StatsRow(
            bucket=bucket_of(wallet_id),
            wallet_id=wallet_id,
            deposited=added.deposited,
            withdrawn=added.withdrawn,
            transferred_out=added.transferred_out,
            transferred_in=added.transferred_in,
            last_activity_at=added.last_activity_at,
        )
        for wallet_id, added in added_by_wallet.items()
    ]
    rows.sort(key=lambda row: (row.bucket, row.wallet_id))
    await connection.execute(_SQL.add_totals, *_STATS.arrays(rows))


async def _judge(connection: Connection, withdrawals: Sequence[LoggedEvent], rules: FraudRules) -> list[Alert]:
    """Returns the alerts that the withdrawals raise, in key order. Each withdrawal must already be in the log."""
    if not withdrawals:
        return []
    rows = await connection.fetch(
        _SQL.read_nth_latest_withdrawals,
        [bucket_of(withdrawal.wallet_id) for withdrawal in withdrawals],
        [withdrawal.wallet_id for withdrawal in withdrawals],
        [withdrawal.event_id for withdrawal in withdrawals],
        [withdrawal.occurred_at for withdrawal in withdrawals],
        rules.rapid_withdrawal_count,
    )
    nth_latest = {row["event_id"]: row["nth_latest_at"] for row in rows}
    alerts = [alert for event in withdrawals for alert in judge(event, nth_latest[event.event_id], rules)]
    return sorted(alerts, key=alert_key)


def alert_key(alert: Alert) -> tuple[int, str, str, UUID]:
    """Returns the primary key of an alert's row."""
    return bucket_of(alert.wallet_id), alert.wallet_id, alert.rule, alert.event_id


async def insert_alerts(connection: Connection, alerts: Sequence[Alert]) -> list[Alert]:
    """Store the alerts, given in key order, and mark their wallets as suspicious. Returns the new alerts."""
    rows = await connection.fetch(
        _SQL.insert_alerts,
        *_ALERTS.arrays(
            [
                AlertRow(
                    bucket=bucket_of(alert.wallet_id),
                    wallet_id=alert.wallet_id,
                    rule=alert.rule,
                    event_id=alert.event_id,
                    reason=alert.reason,
                    occurred_at=alert.occurred_at,
                )
                for alert in alerts
            ]
        ),
    )
    wallets = sorted({(bucket_of(alert.wallet_id), alert.wallet_id) for alert in alerts})
    await connection.execute(
        _SQL.mark_suspicious, [bucket for bucket, _ in wallets], [wallet_id for _, wallet_id in wallets]
    )
    inserted = {(row["rule"], row["event_id"]) for row in rows}
    return [alert for alert in alerts if (alert.rule, alert.event_id) in inserted]


def notify(alerts: Iterable[Alert]) -> None:
    """Log each new alert."""
    for alert in alerts:
        _log.warning(
            "fraud_alert",
            wallet_id=alert.wallet_id,
            rule=alert.rule.value,
            event_id=str(alert.event_id),
            reason=alert.reason,
            occurred_at=alert.occurred_at.isoformat(),
        )
