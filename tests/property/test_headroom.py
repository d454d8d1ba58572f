"""Room for refunds: whatever a wallet receives meanwhile, the money of a refused transfer can come back."""

from dataclasses import dataclass, field
from decimal import Decimal
from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from tests.property.test_batch import NAMES, NAMESPACE, NOW, step_three, step_two
from wallet.domain.batch import (
    BatchState,
    Begun,
    Credited,
    Decided,
    Decision,
    Executable,
    StoredOperation,
    decide_batch,
)
from wallet.domain.commands import Command, Deposit, Transfer, Withdraw
from wallet.domain.events import TransferTerms
from wallet.domain.identifiers import ApiAuditId, OperationKey, RequestId, TransferId, WalletId
from wallet.domain.money import AMOUNT_MAX, BALANCE_MAX, ZERO
from wallet.domain.outcomes import Rejected, Rejection, Transferred
from wallet.domain.transfer import CreditOutcome
from wallet.domain.wallet import Wallet

ROOM = 1
"""Of the largest amounts: few enough that the limit is met again and again."""
STEPS = st.one_of(
    st.tuples(st.just("deposit"), st.sampled_from(NAMES), st.just(NAMES[0])),
    st.tuples(st.just("withdraw"), st.sampled_from(NAMES), st.just(NAMES[0])),
    st.tuples(st.just("transfer"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.just("whole transfer"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.just("credit"), st.integers(0, 10), st.none()),
    st.tuples(st.just("conclude"), st.integers(0, 10), st.none()),
)


@dataclass
class Books:
    """What is stored between batches: each step is a separate batch, with what the ledger would load for it."""

    wallets: dict[WalletId, Wallet]
    operations: dict[OperationKey, StoredOperation] = field(default_factory=dict)
    debited: list[tuple[TransferTerms, RequestId]] = field(default_factory=list)
    credits: dict[TransferId, CreditOutcome] = field(default_factory=dict)
    outcomes: list[object] = field(default_factory=list)

    def run(self, command: Executable, *, stepwise: bool = True) -> Decision:
        refundable: dict[WalletId, Decimal] = {}
        for terms, _ in self.debited:
            refundable[terms.from_wallet_id] = refundable.get(terms.from_wallet_id, ZERO) + terms.amount
        unfinished = {terms.transfer_id for terms, _ in self.debited}
        state = BatchState(
            NOW, self.wallets, self.operations, self.credits, unfinished, refundable=refundable, stepwise=stepwise
        )
        [decision] = decide_batch([command], state)
        return decision

    def refundable_to(self, wallet_id: WalletId) -> Decimal:
        return sum((terms.amount for terms, _ in self.debited if terms.from_wallet_id == wallet_id), ZERO)

    def step(self, number: int, name: str, which: WalletId | int, receiver: WalletId | None) -> None:
        if isinstance(which, int):
            if not self.debited:
                return
            terms, key = self.debited[which % len(self.debited)]
            if name == "credit":
                self.credit(terms, key)
            elif terms.transfer_id in self.credits:
                self.conclude(terms, key)
        elif which != receiver or name in ("deposit", "withdraw"):
            self.order(number, name, which, receiver)

    def order(self, number: int, name: str, wallet_id: WalletId, receiver: WalletId | None) -> None:
        key, audit_id = RequestId(str(number)), ApiAuditId(UUID(int=number))
        if name == "deposit":
            command: Command = Deposit(wallet_id=wallet_id, request_id=key, api_audit_id=audit_id, amount=AMOUNT_MAX)
        elif name == "withdraw":
            command = Withdraw(wallet_id=wallet_id, request_id=key, api_audit_id=audit_id, amount=AMOUNT_MAX)
        else:
            assert receiver is not None
            transfer_id = TransferId(uuid5(NAMESPACE, str(number)))
            command = Transfer(
                wallet_id=wallet_id,
                request_id=key,
                api_audit_id=audit_id,
                amount=AMOUNT_MAX,
                to_wallet_id=receiver,
                transfer_id=transfer_id,
            )
        decision = self.run(command, stepwise=name != "whole transfer")
        if isinstance(decision, Begun):
            self.debited.append((decision.terms, key))
        elif isinstance(decision, Decided):
            self.outcomes.append(decision.outcome)

    def credit(self, terms: TransferTerms, key: RequestId) -> None:
        credited = self.run(step_two(terms, key))
        assert isinstance(credited, Credited)
        self.credits[terms.transfer_id] = credited.outcome

    def conclude(self, terms: TransferTerms, key: RequestId) -> None:
        """A refund beyond the limit fails an assertion of the wallet."""
        self.run(step_three(terms, key, self.credits[terms.transfer_id]))
        self.debited.remove((terms, key))


@given(
    st.lists(STEPS, min_size=8, max_size=60),
    st.lists(st.integers(0, ROOM), min_size=len(NAMES), max_size=len(NAMES)),
)
def test_a_refund_always_fits_and_each_transfer_ends(
    steps: list[tuple[str, WalletId | int, WalletId | None]], rooms: list[int]
) -> None:
    books = Books(
        {
            name: Wallet(name, "USD", BALANCE_MAX - room * AMOUNT_MAX, 1, NOW)
            for name, room in zip(NAMES, rooms, strict=True)
        }
    )
    for number, step in enumerate(steps):
        books.step(number, *step)
        for name in NAMES:
            assert books.wallets[name].balance + books.refundable_to(name) <= BALANCE_MAX
    for terms, key in list(books.debited):
        books.credit(terms, key)
        books.conclude(terms, key)
    assert books.debited == []


def test_a_credit_into_the_room_of_a_refund_is_refused_until_the_transfer_has_ended() -> None:
    full, other, third = (Wallet(name, "USD", BALANCE_MAX, 1, NOW) for name in NAMES)
    books = Books({wallet.wallet_id: wallet for wallet in (full, other, third)})
    books.order(1, "transfer", full.wallet_id, other.wallet_id)
    books.order(2, "deposit", full.wallet_id, None)
    books.order(3, "whole transfer", third.wallet_id, full.wallet_id)
    assert [outcome.reason for outcome in books.outcomes if isinstance(outcome, Rejected)] == [
        Rejection.BALANCE_LIMIT_EXCEEDED,
        Rejection.BALANCE_LIMIT_EXCEEDED,
    ]
    [(terms, key)] = books.debited
    books.order(4, "withdraw", other.wallet_id, None)
    books.credit(terms, key)
    books.conclude(terms, key)
    books.order(5, "whole transfer", third.wallet_id, full.wallet_id)
    assert isinstance(books.outcomes[-1], Transferred)
