"""The steps that verify expects of a transfer are those that the domain takes."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from wallet.domain.events import TransferTerms, WalletCreated
from wallet.domain.identifiers import TransferId, WalletId
from wallet.domain.transfer import CreditAccepted, CreditRefused, TransferStatus, begin, conclude, receive
from wallet.domain.wallet import Wallet, initial
from wallet.integrity.checks.transfers import STEPS

TERMS = TransferTerms(TransferId(UUID(int=1)), WalletId("alice"), WalletId("bob"), Decimal(5), "USD")
ALICE = Wallet(TERMS.from_wallet_id, "USD", Decimal(10), 1, datetime(2026, 1, 1, tzinfo=UTC))


def types_of(events: object) -> tuple[type, ...]:
    assert isinstance(events, tuple)
    return tuple(type(event) for event in events if not isinstance(event, WalletCreated))


def test_each_status_has_the_steps_that_lead_to_it() -> None:
    begun, received = types_of(begin(ALICE, TERMS)), types_of(receive(initial(TERMS.to_wallet_id), TERMS))
    completed = types_of(conclude(TERMS, CreditAccepted(Decimal(5), 2)))
    failed = types_of(conclude(TERMS, CreditRefused("full")))
    assert set(STEPS) == {
        (TransferStatus.DEBITED, begun),
        (TransferStatus.DEBITED, (*begun, *received)),
        (TransferStatus.COMPLETED, (*begun, *received, *completed)),
        (TransferStatus.FAILED, (*begun, *failed)),
    }
