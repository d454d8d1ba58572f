"""Notifications of new fraud alerts: for now one log line each, after COMMIT.

The row in fraud_alerts is the record; the line is a notification of it. A crash between COMMIT and the line loses
the line, never the row, so a program that must not miss an alert reads the table.
"""

from collections.abc import Iterable

import structlog

from wallet.fraud.rules import Alert

_log = structlog.get_logger()


def notify(alerts: Iterable[Alert]) -> None:
    """Tell of each new alert."""
    for alert in alerts:
        _log.warning(
            "fraud_alert",
            wallet_id=alert.wallet_id,
            rule=alert.rule.value,
            event_id=str(alert.event_id),
            reason=alert.reason,
            occurred_at=alert.occurred_at.isoformat(),
        )
