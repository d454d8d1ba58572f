"""The two fraud rules, and which alert speaks for a wallet."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from wallet.domain.analytics import LoggedEvent
from wallet.domain.identifiers import EventId, WalletId
from wallet.fraud.rules import Alert, FraudRules, Rule, alerts_of, is_watched, judge, suspicious_reason

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RULES = FraudRules(
    large_withdrawal_threshold=Decimal(10_000),
    rapid_withdrawal_count=3,
    rapid_withdrawal_window=timedelta(seconds=60),
)
ALICE = WalletId("alice")


def withdrawal(
    at: float, amount: str = "1", *, wallet_id: str = "alice", event_type: str = "FundsWithdrawn"
) -> LoggedEvent:
    event_id = EventId(UUID(int=int(at * 1_000_000)))
    time = NOON + timedelta(seconds=at)
    return LoggedEvent(event_id, WalletId(wallet_id), event_type, Decimal(amount), time, None)


def rapid_hits(*times: float) -> list[float]:
    alerts = alerts_of([withdrawal(at) for at in times], RULES)
    return sorted((a.occurred_at - NOON).total_seconds() for a in alerts if a.rule is Rule.RAPID_WITHDRAWALS)


@pytest.mark.parametrize(
    ("amount", "is_hit"),
    [("9999.9999", False), ("10000", True), ("10000.0000", True), ("10000.0001", True), ("100000000000000", True)],
)
def test_a_withdrawal_is_large_from_the_threshold_on(amount: str, is_hit: bool) -> None:
    alerts = judge(withdrawal(1, amount), None, RULES)
    assert [alert.rule for alert in alerts] == ([Rule.LARGE_WITHDRAWAL] if is_hit else [])


@pytest.mark.parametrize(
    ("times", "hits"),
    [
        ((), []),
        ((1, 2), []),
        ((1, 2, 3), [3]),
        ((1, 2, 3, 4), [3, 4]),
        ((0, 30, 59.999999), [59.999999]),
        # The window is open at its start: a withdrawal exactly 60 seconds ago is outside.
        ((0, 30, 60), []),
        ((0, 30, 60, 61), [61]),
        ((0, 100, 200, 300), []),
        ((0, 1, 100, 101, 102), [102]),
    ],
)
def test_the_third_withdrawal_within_the_window_hits(times: tuple[float, ...], hits: list[float]) -> None:
    assert rapid_hits(*times) == hits


def test_the_order_of_arrival_does_not_matter() -> None:
    assert rapid_hits(4, 1, 3, 2) == rapid_hits(1, 2, 3, 4)


def test_each_wallet_is_counted_alone() -> None:
    events = [withdrawal(1), withdrawal(2), withdrawal(3, wallet_id="bob")]
    assert alerts_of(events, RULES) == set()


def test_only_withdrawals_are_watched() -> None:
    deposits = [withdrawal(at, "20000", event_type="FundsDeposited") for at in (1, 2, 3)]
    assert not any(is_watched(deposit) for deposit in deposits)
    assert alerts_of(deposits, RULES) == set()


def test_both_rules_may_hit_the_same_withdrawal() -> None:
    alerts = alerts_of([withdrawal(1), withdrawal(2), withdrawal(3, "20000")], RULES)
    assert {alert.rule for alert in alerts} == {Rule.LARGE_WITHDRAWAL, Rule.RAPID_WITHDRAWALS}


def test_a_count_of_one_hits_every_withdrawal() -> None:
    rules = FraudRules(Decimal(10_000), 1, timedelta(seconds=60))
    assert len(alerts_of([withdrawal(0), withdrawal(1000)], rules)) == 2


def test_the_reason_names_the_limit() -> None:
    large, rapid = judge(withdrawal(3, "20000"), NOON, RULES)
    assert large.reason == "withdrawal of 20000.0000 reaches the limit of 10000.0000"
    assert rapid.reason == "3 or more withdrawals within 60 seconds"


def test_a_wallet_without_alerts_is_not_suspicious() -> None:
    assert suspicious_reason([]) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            Alert(ALICE, Rule.RAPID_WITHDRAWALS, EventId(UUID(int=9)), "first", NOON),
            Alert(ALICE, Rule.LARGE_WITHDRAWAL, EventId(UUID(int=1)), "second", NOON + timedelta(microseconds=1)),
        ),
        (
            Alert(ALICE, Rule.RAPID_WITHDRAWALS, EventId(UUID(int=1)), "first", NOON),
            Alert(ALICE, Rule.LARGE_WITHDRAWAL, EventId(UUID(int=2)), "second", NOON),
        ),
        (
            Alert(ALICE, Rule.LARGE_WITHDRAWAL, EventId(UUID(int=1)), "first", NOON),
            Alert(ALICE, Rule.RAPID_WITHDRAWALS, EventId(UUID(int=1)), "second", NOON),
        ),
    ],
    ids=["by time", "then by event", "then by rule"],
)
def test_the_earliest_alert_gives_the_reason(first: Alert, second: Alert) -> None:
    assert suspicious_reason([second, first]) == suspicious_reason([first, second]) == "first"
