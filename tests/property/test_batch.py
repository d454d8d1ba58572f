"""The batch: the same as its commands one at a time, whatever the commands; money conserved; state = replay."""

from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from wallet.domain.batch import BatchState, Begun, Credited, Decision, Executable, StillPending, decide_batch
from wallet.domain.commands import Command, ConcludeTransfer, CreditTransfer, Deposit, Transfer, Withdraw
from wallet.domain.events import (
    FundsDeposited,
    FundsWithdrawn,
    TransferCompensated,
    TransferCredited,
    TransferDebited,
    TransferTerms,
)
from wallet.domain.identifiers import ApiAuditId, RequestId, TransferId, WalletId
from wallet.domain.money import AMOUNT_MAX, ZERO
from wallet.domain.transfer import CreditOutcome
from wallet.domain.wallet import Wallet, evolve, initial

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMESPACE = UUID(int=0)
NAMES = [WalletId(name) for name in ("a", "b", "c")]
WALLETS = st.sampled_from(NAMES)
AMOUNTS = st.one_of(
    st.integers(1, 50_000).map(lambda cents: Decimal(cents).scaleb(-2).quantize(Decimal("0.0001"))),
    st.just(AMOUNT_MAX),
)


@st.composite
def commands(draw: st.DrawFn) -> list[Command]:
    """A few wallets, colliding keys, small and huge amounts: every kind of outcome turns up."""
    made: list[Command] = []
    for number in range(draw(st.integers(1, 40))):
        wallet_id, amount = draw(WALLETS), draw(AMOUNTS)
        key = RequestId(f"k{draw(st.integers(0, 30))}")
        audit_id = ApiAuditId(uuid5(NAMESPACE, f"audit {number}"))
        kind = draw(st.sampled_from(["deposit", "withdraw", "transfer"]))
        if kind == "deposit":
            made.append(Deposit(wallet_id=wallet_id, request_id=key, api_audit_id=audit_id, amount=amount))
        elif kind == "withdraw":
            made.append(Withdraw(wallet_id=wallet_id, request_id=key, api_audit_id=audit_id, amount=amount))
        else:
            to_wallet_id = draw(st.sampled_from([other for other in NAMES if other != wallet_id]))
            made.append(
                Transfer(
                    wallet_id=wallet_id,
                    request_id=key,
                    api_audit_id=audit_id,
                    amount=amount,
                    to_wallet_id=to_wallet_id,
                    transfer_id=TransferId(uuid5(NAMESPACE, f"transfer {number}")),
                )
            )
    return made


def fresh_state(*, stepwise: bool = False) -> BatchState:
    return BatchState(NOW, {}, {}, stepwise=stepwise)


def decided_one_at_a_time(batch: list[Command]) -> tuple[list[Decision], BatchState]:
    """Each command alone in a batch that begins where the one before ended."""
    decisions: list[Decision] = []
    whole = fresh_state()
    for command in batch:
        alone = BatchState(NOW, dict(whole.wallets), dict(whole.operations))
        decisions += decide_batch([command], alone)
        whole.wallets, whole.operations = alone.wallets, alone.operations
        whole.events += alone.events
    return decisions, whole


@given(commands())
def test_a_batch_gives_what_its_commands_give_one_at_a_time(batch: list[Command]) -> None:
    together = fresh_state()
    decisions = decide_batch(batch, together)
    decisions_alone, alone = decided_one_at_a_time(batch)
    assert decisions == decisions_alone
    assert together.events == alone.events
    assert together.wallets == alone.wallets
    assert together.operations == alone.operations


@given(commands(), st.booleans())
def test_money_is_conserved_and_never_negative(batch: list[Command], stepwise: bool) -> None:
    state = fresh_state(stepwise=stepwise)
    decide_batch(batch, state)
    assert_conserved(state)


@given(commands(), st.booleans())
def test_the_state_is_the_fold_of_the_events(batch: list[Command], stepwise: bool) -> None:
    state = fresh_state(stepwise=stepwise)
    decide_batch(batch, state)
    folded: dict[WalletId, Wallet] = {}
    for recorded in state.events:
        before = folded.get(recorded.wallet_id) or initial(recorded.wallet_id)
        after = evolve(before, recorded.event, recorded.occurred_at)
        assert (after.version, after.balance) == (recorded.version, recorded.balance_after)
        assert before.last_event_at is None or recorded.occurred_at > before.last_event_at
        folded[recorded.wallet_id] = after
    assert folded == {wallet_id: wallet for wallet_id, wallet in state.wallets.items() if wallet.exists}


@given(commands(), st.randoms(use_true_random=False))
def test_every_saga_ends_in_any_order_of_its_steps_and_with_any_number_of_drivers(
    batch: list[Command], random: Random
) -> None:
    state = fresh_state(stepwise=True)
    decisions = decide_batch(batch, state)
    begun = [
        (decision.terms, command.request_id)
        for command, decision in zip(batch, decisions, strict=True)
        if isinstance(decision, Begun)
    ]
    drivers = begun * 2
    random.shuffle(drivers)
    words: dict[TransferId, CreditOutcome] = {}
    for terms, key in drivers:
        [credited] = decide_batch([step_two(terms, key)], state)
        assert isinstance(credited, Credited)
        assert words.setdefault(terms.transfer_id, credited.outcome) == credited.outcome
    random.shuffle(drivers)
    for terms, key in drivers:
        decide_batch([step_three(terms, key, words[terms.transfer_id])], state)
    assert state.unfinished == set()
    assert all(stored.is_final for stored in state.operations.values())
    assert money_in_flight(state) == 0
    assert_conserved(state)
    again = decide_batch(batch, state)
    assert not any(isinstance(decision, StillPending | Begun) for decision in again)


def step_two(terms: TransferTerms, key: RequestId) -> Executable:
    return CreditTransfer(terms=terms, request_id=key, api_audit_id=ApiAuditId(NAMESPACE))


def step_three(terms: TransferTerms, key: RequestId, credit: CreditOutcome) -> Executable:
    return ConcludeTransfer(terms=terms, request_id=key, api_audit_id=ApiAuditId(NAMESPACE), credit=credit)


def money_in_flight(state: BatchState) -> Decimal:
    flow = ZERO
    for recorded in state.events:
        match recorded.event:
            case TransferDebited():
                flow += recorded.event.amount
            case TransferCredited() | TransferCompensated():
                flow -= recorded.event.amount
            case _:
                pass
    return flow


def assert_conserved(state: BatchState) -> None:
    balances = sum((wallet.balance for wallet in state.wallets.values()), ZERO)
    outside = ZERO
    for recorded in state.events:
        match recorded.event:
            case FundsDeposited(amount):
                outside += amount
            case FundsWithdrawn(amount):
                outside -= amount
            case _:
                pass
    assert balances + money_in_flight(state) == outside
    assert all(wallet.balance >= 0 for wallet in state.wallets.values())
