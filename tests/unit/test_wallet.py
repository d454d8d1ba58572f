"""The wallet's rules: given a state, when a command comes, then these events or that refusal."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from wallet.domain.events import FundsDeposited, FundsWithdrawn, WalletCreated, payload_of
from wallet.domain.identifiers import ApiAuditId, RequestId, WalletId
from wallet.domain.money import BALANCE_MAX
from wallet.domain.outcomes import Rejected, Rejection
from wallet.domain.wallet import Wallet, decide_deposit, decide_withdraw, initial, record

ALICE = WalletId("alice")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def wallet_with(balance: str) -> Wallet:
    return Wallet(ALICE, "USD", Decimal(balance), 3, NOW)


def test_a_first_deposit_creates_the_wallet() -> None:
    assert decide_deposit(initial(ALICE), Decimal(5)) == (WalletCreated("USD"), FundsDeposited(Decimal(5)))


def test_a_later_deposit_only_deposits() -> None:
    assert decide_deposit(wallet_with("1"), Decimal(5)) == (FundsDeposited(Decimal(5)),)


def test_a_withdrawal_may_empty_the_wallet() -> None:
    assert decide_withdraw(wallet_with("5"), Decimal(5)) == (FundsWithdrawn(Decimal(5)),)


def test_a_withdrawal_of_more_than_there_is_names_both_numbers() -> None:
    refused = decide_withdraw(wallet_with("5"), Decimal("5.0001"))
    assert isinstance(refused, Rejected)
    assert refused.reason is Rejection.INSUFFICIENT_FUNDS
    assert "5.0000" in refused.detail
    assert "5.0001" in refused.detail


def test_a_withdrawal_from_no_wallet_is_refused() -> None:
    refused = decide_withdraw(initial(ALICE), Decimal(5))
    assert isinstance(refused, Rejected)
    assert refused.reason is Rejection.WALLET_NOT_FOUND


def test_a_deposit_over_the_limit_is_refused() -> None:
    full = Wallet(ALICE, "USD", BALANCE_MAX, 3, NOW)
    refused = decide_deposit(full, Decimal("0.0001"))
    assert isinstance(refused, Rejected)
    assert refused.reason is Rejection.BALANCE_LIMIT_EXCEEDED


@pytest.mark.parametrize("now", [NOW, NOW - timedelta(days=1), NOW + timedelta(microseconds=1)])
def test_time_within_a_wallet_strictly_increases_whatever_the_clock_does(now: datetime) -> None:
    after, recorded = record(
        wallet_with("1"),
        FundsDeposited(Decimal(1)),
        now,
        request_id=RequestId("r"),
        api_audit_id=ApiAuditId(UUID(int=1)),
    )
    assert recorded.occurred_at > NOW
    assert (after.version, recorded.version) == (4, 4)
    assert payload_of(recorded) == {
        "walletId": "alice",
        "amount": "1.0000",
        "newBalance": "2.0000",
        "requestId": "r",
    }
