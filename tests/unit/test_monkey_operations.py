"""What the stress tool draws: the same for the same seed, with different names in each run."""

import json
from collections import Counter
from decimal import Decimal

from wallet.stress.operations import Key, Operation, OperationKind, Plan, WalletId, origin_of

REQUESTS = 2000


def drawn(seed: int, run_id: str = "r", wallet_count: int = 20) -> list[Operation]:
    plan = Plan(seed, run_id, wallet_count)
    return [plan.request(number).operation for number in range(REQUESTS)]


def test_the_same_seed_draws_the_same_operations_in_any_order(seed: int) -> None:
    plan = Plan(seed, "r", 20)
    backwards = [plan.request(number).operation for number in reversed(range(REQUESTS))]
    assert drawn(seed) == backwards[::-1]


def test_another_seed_draws_others(seed: int) -> None:
    assert drawn(seed) != drawn(seed + 1)


def test_another_run_with_the_seed_differs_in_its_names_alone(seed: int) -> None:
    def renamed(operation: Operation) -> str:
        return repr(operation).replace("monkey-one-", "monkey-two-")

    one, two = drawn(seed, "one"), drawn(seed, "two")
    assert [renamed(operation) for operation in one] == [repr(operation) for operation in two]
    assert {operation.key for operation in one}.isdisjoint(operation.key for operation in two)
    assert {operation.wallet_id for operation in one} == set(Plan(seed, "one", 20).wallet_ids)


def test_every_kind_is_drawn_and_no_transfer_goes_to_its_own_wallet(seed: int) -> None:
    operations = drawn(seed, wallet_count=2)
    assert min(Counter(operation.kind for operation in operations)[kind] for kind in OperationKind) > REQUESTS // 5
    transfers = [operation for operation in operations if operation.kind is OperationKind.TRANSFER]
    assert all(operation.to_wallet_id not in (None, operation.wallet_id) for operation in transfers)


def test_amounts_are_positive_and_plainly_written(seed: int) -> None:
    for operation in drawn(seed):
        raw = json.loads(operation.body(), parse_float=str, parse_int=str)["amount"]
        assert "E" not in raw.upper()
        assert Decimal(raw) == operation.amount > 0
        assert len(raw.partition(".")[2]) <= 4


def test_about_a_tenth_sends_an_earlier_key_again_near_and_far(seed: int) -> None:
    distances = [number - origin_of(seed, number) for number in range(REQUESTS)]
    repeats = [distance for distance in distances if distance]
    assert REQUESTS // 20 < len(repeats) < REQUESTS // 5
    assert min(distances) == 0
    assert sum(distance <= 3 for distance in repeats) > len(repeats) // 4
    assert sum(distance > 100 for distance in repeats) > len(repeats) // 4


def test_a_repeat_is_the_same_operation_with_the_same_key(seed: int) -> None:
    operations = drawn(seed)
    assert all(operations[number] == operations[origin_of(seed, number)] for number in range(REQUESTS))
    assert len({operation.key for operation in operations}) == len(set(operations))


def test_a_body_holds_what_the_route_wants() -> None:
    transfer = Operation(OperationKind.TRANSFER, WalletId("a"), Key("k"), Decimal("12.50"), WalletId("b"))
    assert (transfer.path, transfer.body()) == (
        "/wallet/a/transfer",
        b'{"amount":12.50,"requestId":"k","toWalletId":"b"}',
    )
    deposit = Operation(OperationKind.DEPOSIT, WalletId("a"), Key("k"), Decimal(7))
    assert deposit.body() == b'{"amount":7,"requestId":"k"}'
