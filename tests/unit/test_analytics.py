"""What each event adds to the totals."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from wallet.domain.analytics import LoggedEvent, WalletTotals, fold, merge, totals_of
from wallet.domain.events import EVENT_TYPES
from wallet.domain.identifiers import EventId, WalletId
from wallet.domain.money import ZERO

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ALICE, BOB = WalletId("alice"), WalletId("bob")
TEN = Decimal("10.0000")


def event(event_type: str, *, wallet_id: WalletId = ALICE, at: int = 0, number: int = 1) -> LoggedEvent:
    to_wallet_id = BOB if event_type.startswith("Transfer") else None
    time = NOON + timedelta(seconds=at)
    return LoggedEvent(EventId(UUID(int=number)), wallet_id, event_type, TEN, time, to_wallet_id)


def totals(deposited: Decimal, withdrawn: Decimal, out: Decimal, into: Decimal) -> WalletTotals:
    return WalletTotals(deposited, withdrawn, out, into, NOON)


@pytest.mark.parametrize(
    ("event_type", "added"),
    [
        ("WalletCreated", {ALICE: totals(ZERO, ZERO, ZERO, ZERO)}),
        ("FundsDeposited", {ALICE: totals(TEN, ZERO, ZERO, ZERO)}),
        ("FundsWithdrawn", {ALICE: totals(ZERO, TEN, ZERO, ZERO)}),
        ("TransferInitiated", {ALICE: totals(ZERO, ZERO, ZERO, ZERO)}),
        ("TransferDebited", {ALICE: totals(ZERO, ZERO, ZERO, ZERO)}),
        ("TransferCredited", {ALICE: totals(ZERO, ZERO, ZERO, ZERO)}),
        ("TransferCompleted", {ALICE: totals(ZERO, ZERO, TEN, ZERO), BOB: totals(ZERO, ZERO, ZERO, TEN)}),
        ("TransferCompensated", {ALICE: totals(ZERO, ZERO, ZERO, ZERO)}),
        ("TransferFailed", {ALICE: totals(ZERO, ZERO, ZERO, ZERO)}),
    ],
)
def test_each_type_of_event_adds_this(event_type: str, added: dict[WalletId, WalletTotals]) -> None:
    assert dict(totals_of(event(event_type))) == added


def test_no_type_of_event_is_forgotten() -> None:
    assert all(totals_of(event(event_type)) for event_type in EVENT_TYPES)


def test_an_unknown_type_is_refused_and_not_counted_as_nothing() -> None:
    with pytest.raises(ValueError, match="WalletFrozen"):
        totals_of(event("WalletFrozen"))


def test_last_activity_is_the_latest_time_whatever_came_last() -> None:
    folded = fold([event("FundsDeposited", at=5), event("FundsWithdrawn", at=9), event("FundsDeposited", at=1)])
    assert folded[ALICE] == WalletTotals(
        Decimal("20.0000"), TEN, ZERO, ZERO, last_activity_at=NOON + timedelta(seconds=9)
    )


def test_a_completed_transfer_is_activity_of_the_receiver_too() -> None:
    folded = fold([event("FundsDeposited", wallet_id=BOB, at=1), event("TransferCompleted", at=7)])
    assert folded[BOB].last_activity_at == NOON + timedelta(seconds=7)


def test_merging_commutes() -> None:
    left, right = totals(TEN, ZERO, TEN, ZERO), totals(ZERO, TEN, ZERO, TEN)
    assert merge(left, right) == merge(right, left) == totals(TEN, TEN, TEN, TEN)
