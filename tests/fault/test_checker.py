"""The checker finds no fault in a correct run, and finds each fault that is planted in one."""

import random
from collections.abc import Callable
from decimal import Decimal

import pytest

from tests.fault.checker import check_history
from tests.fault.planted import PLANTED
from tests.fault.right_ledger import BALANCE_MAX, RightLedger
from tests.fault.victim import Victim
from wallet.stress.operations import Key, Operation, OperationKind, Plan, PlannedRequest, WalletId

SEEDS = 30
SEEDS_PER_FAULT = 4
REQUESTS = 250
WALLETS = 5
ALICE, RICH = WalletId("alice"), WalletId("rich")
TRANSFER = Operation(OperationKind.TRANSFER, ALICE, Key("k-transfer"), Decimal(20), RICH)


def a_right_run(seed: int, *, is_stepwise: bool = False) -> RightLedger:
    plan = Plan(seed, f"{seed:x}", WALLETS)
    ledger = RightLedger(random.Random(seed), is_stepwise)
    ledger.play(map(plan.request, range(REQUESTS)), plan.wallet_ids)
    return ledger


def faults_of(ledger: RightLedger) -> dict[str, tuple[str, ...]]:
    return {check.promise: check.faults for check in check_history(ledger.books, ledger.sums) if check.faults}


@pytest.mark.parametrize("is_stepwise", [False, True], ids=["whole", "stepwise"])
def test_nothing_is_found_where_all_is_right(seed: int, is_stepwise: bool) -> None:
    found = {each: faults_of(a_right_run(each, is_stepwise=is_stepwise)) for each in range(seed, seed + SEEDS)}
    assert {each: faults for each, faults in found.items() if faults} == {}


def test_a_right_run_has_something_of_everything(seed: int) -> None:
    books = a_right_run(seed).books
    statuses = {answer.status for each in books.exchanges if (answer := each.answer) is not None}
    assert {201, 400} <= statuses <= {201, 400, 404}
    keys = [each.request.operation.key for each in books.exchanges]
    assert len(set(keys)) < len(keys) == REQUESTS
    assert any(len(each.tries) > 1 for each in books.exchanges)
    overlapping = zip(books.exchanges, books.exchanges[1:], strict=False)
    assert any(other.sent_at_seconds < one.ended_at_seconds for one, other in overlapping)


@pytest.mark.parametrize("is_stepwise", [False, True], ids=["whole", "stepwise"])
@pytest.mark.parametrize(("plant", "promise"), PLANTED.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_a_planted_fault_is_found(seed: int, plant: Callable[[Victim], str], promise: str, is_stepwise: bool) -> None:
    for each in range(seed, seed + SEEDS_PER_FAULT):
        victim = Victim(a_right_run(each, is_stepwise=is_stepwise), random.Random(each))
        named = plant(victim)
        found = faults_of(victim.ledger).get(promise, ())
        assert any(named in fault for fault in found), (each, named, found)


def a_transfer_to_the_rich(*, is_stepwise: bool) -> RightLedger:
    """The receiver is at its balance limit: the transfer is refused at once, or compensated if it is stepwise."""
    operations = [
        Operation(OperationKind.DEPOSIT, ALICE, Key("k-deposit"), Decimal(100)),
        Operation(OperationKind.DEPOSIT, RICH, Key("k-riches"), BALANCE_MAX),
        TRANSFER,
        TRANSFER,
        Operation(OperationKind.WITHDRAW, ALICE, Key("k-withdrawal"), Decimal(100)),
    ]
    ledger = RightLedger(random.Random(1), is_stepwise)
    ledger.play((PlannedRequest(*each) for each in enumerate(operations)), [ALICE, RICH], senders=1)
    return ledger


def test_a_transfer_that_its_receiver_refuses_is_no_fault() -> None:
    whole, stepwise = (a_transfer_to_the_rich(is_stepwise=each) for each in (False, True))
    assert [event.type for event in whole.events[ALICE]][2:] == ["FundsWithdrawn"]
    assert [event.type for event in stepwise.events[ALICE]][2:] == [
        "TransferInitiated", "TransferDebited", "TransferCompensated", "TransferFailed", "FundsWithdrawn",
    ]  # fmt: skip
    assert (faults_of(whole), faults_of(stepwise)) == ({}, {})


def test_a_failed_transfer_whose_money_did_not_come_back_is_found() -> None:
    ledger = a_transfer_to_the_rich(is_stepwise=True)
    victim = Victim(ledger, random.Random(1))
    wallet_id, index, _ = victim.event("TransferCompensated")
    victim.put(wallet_id, index)
    found = faults_of(ledger)
    assert "k-transfer" in found["every key had one effect"][0]
    assert "k-transfer" in found["each key has its events"][0]


def test_a_failed_transfer_whose_receiver_had_room_is_found() -> None:
    ledger = a_transfer_to_the_rich(is_stepwise=True)
    victim = Victim(ledger, random.Random(1))
    wallet_id, index, _ = victim.event("FundsDeposited")
    while wallet_id != RICH:
        wallet_id, index, _ = victim.event("FundsDeposited")
    victim.put(wallet_id, index)
    assert any("k-transfer" in fault for fault in faults_of(ledger)["refusals were due"])
