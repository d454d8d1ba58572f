"""The fraud rules: which withdrawals raise an alert, and why a wallet is suspicious.

Both rules read only the log and do not depend on the time or order in which events arrive. A withdrawal's window ends
with the withdrawal itself, and within a wallet time strictly increases. So once a withdrawal is in the log its window
is complete: the result is the same live, late, twice, or in a rebuild.
"""

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum, unique
from typing import Self

from wallet.domain.analytics import LoggedEvent
from wallet.domain.events import FundsWithdrawn
from wallet.domain.identifiers import EventId, WalletId
from wallet.domain.money import format_money
from wallet.runtime.settings import Settings


@unique
class Rule(StrEnum):
    """The rules; the value is stored with each alert."""

    LARGE_WITHDRAWAL = "large_withdrawal"
    RAPID_WITHDRAWALS = "rapid_withdrawals"


@dataclass(frozen=True, slots=True)
class FraudRules:
    """The limits: a withdrawal at or above the threshold; a number of withdrawals within the window."""

    large_withdrawal_threshold: Decimal
    rapid_withdrawal_count: int
    rapid_withdrawal_window: timedelta

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Returns the rules with the configured limits."""
        return cls(
            settings.fraud_large_withdrawal_threshold,
            settings.fraud_rapid_withdrawal_count,
            timedelta(seconds=settings.fraud_rapid_withdrawal_window_seconds),
        )


@dataclass(frozen=True, slots=True)
class Alert:
    """A match of one rule by one event."""

    wallet_id: WalletId
    rule: Rule
    event_id: EventId
    reason: str
    occurred_at: datetime


def is_watched(event: LoggedEvent) -> bool:
    """Returns whether the rules apply to this type of event."""
    return event.type == FundsWithdrawn.__name__


def judge(withdrawal: LoggedEvent, nth_latest_at: datetime | None, rules: FraudRules) -> list[Alert]:
    """Returns the alerts that a withdrawal raises.

    `nth_latest_at` is when the wallet's Nth latest withdrawal up to and including this one occurred, N being the rules'
    count; None if the log has fewer. It shows whether N of them are in (e − window, e].
    """
    alerts = []
    if withdrawal.amount >= rules.large_withdrawal_threshold:
        reason = (
            f"withdrawal of {format_money(withdrawal.amount)} reaches the limit of "
            f"{format_money(rules.large_withdrawal_threshold)}"
        )
        alerts.append(_alert(withdrawal, Rule.LARGE_WITHDRAWAL, reason))
    if nth_latest_at is not None and nth_latest_at > withdrawal.occurred_at - rules.rapid_withdrawal_window:
        seconds = rules.rapid_withdrawal_window // timedelta(seconds=1)
        reason = f"{rules.rapid_withdrawal_count} or more withdrawals within {seconds} seconds"
        alerts.append(_alert(withdrawal, Rule.RAPID_WITHDRAWALS, reason))
    return alerts


class Watch:
    """Applies the rules to the withdrawals of one wallet, given in order of time."""

    def __init__(self, rules: FraudRules) -> None:
        self._rules = rules
        self._latest: deque[datetime] = deque(maxlen=rules.rapid_withdrawal_count)

    def see(self, withdrawal: LoggedEvent) -> list[Alert]:
        """Returns the alerts that the next withdrawal raises."""
        self._latest.append(withdrawal.occurred_at)
        is_full = len(self._latest) == self._rules.rapid_withdrawal_count
        return judge(withdrawal, self._latest[0] if is_full else None, self._rules)


def alerts_of(events: Iterable[LoggedEvent], rules: FraudRules) -> set[Alert]:
    """Returns all alerts of a whole log, given in any order: the same alerts that the worker finds event by event."""
    by_wallet: defaultdict[WalletId, list[LoggedEvent]] = defaultdict(list)
    for event in events:
        if is_watched(event):
            by_wallet[event.wallet_id].append(event)
    alerts: set[Alert] = set()
    for withdrawals in by_wallet.values():
        watch = Watch(rules)
        for withdrawal in sorted(withdrawals, key=lambda withdrawal: withdrawal.occurred_at):
            alerts.update(watch.see(withdrawal))
    return alerts


def suspicious_reason(alerts: Iterable[Alert]) -> str | None:
    """Returns why a wallet with these alerts is suspicious: the reason of the earliest, or None without alerts."""
    earliest = min(alerts, key=lambda alert: (alert.occurred_at, alert.event_id, alert.rule), default=None)
    return None if earliest is None else earliest.reason


def _alert(withdrawal: LoggedEvent, rule: Rule, reason: str) -> Alert:
    return Alert(withdrawal.wallet_id, rule, withdrawal.event_id, reason, withdrawal.occurred_at)
