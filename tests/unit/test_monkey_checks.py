"""The stress tool's checks find what is wrong with a run, and nothing in one that is right."""

from dataclasses import replace
from decimal import Decimal

from wallet.stress.exchanges import NoAnswer, ServiceAnswer, TriedRequest
from wallet.stress.findings import Evidence, check_run
from wallet.stress.histories import Shown, ShownEvent
from wallet.stress.operations import Key, Operation, OperationKind, PlannedRequest, WalletId
from wallet.stress.outcomes import ExpectedTotals

ALICE, BOB = WalletId("alice"), WalletId("bob")
DEPOSIT = Operation(OperationKind.DEPOSIT, ALICE, Key("k-deposit"), Decimal(100))
SECOND = Operation(OperationKind.DEPOSIT, BOB, Key("k-second"), Decimal("50.5"))
WITHDRAWAL = Operation(OperationKind.WITHDRAW, ALICE, Key("k-withdrawal"), Decimal("30.25"))
TRANSFER = Operation(OperationKind.TRANSFER, ALICE, Key("k-transfer"), Decimal(20), BOB)
REFUSED = Operation(OperationKind.WITHDRAW, BOB, Key("k-refused"), Decimal(1000))

DONE = ServiceAnswer(201, b'{"balance": "1.0000"}')
TRANSFERRED = ServiceAnswer(201, b'{"transferId": "t1", "status": "completed"}')
TOO_LITTLE = ServiceAnswer(400, b'{"message": "insufficient funds"}')


def exchange(number: int, operation: Operation, *tries: ServiceAnswer | NoAnswer) -> TriedRequest:
    return TriedRequest(PlannedRequest(number, operation), tries, sent_at_seconds=number, ended_at_seconds=number + 0.5)


def event(
    kind: str, moved: str, new_balance: str | None, operation: Operation, *, at: int, number: int = 0
) -> ShownEvent:
    return ShownEvent(
        event_id=f"event-{at}-{number}",
        type=kind,
        occurred_at=f"2026-01-01T00:00:{at:02}Z",
        moved=Decimal(moved),
        new_balance=None if new_balance is None else Decimal(new_balance),
        request_id=operation.key,
        transfer_id="t1" if operation.kind is OperationKind.TRANSFER else None,
    )


def a_right_run() -> Evidence:
    """Five operations, of which one is refused, and one key sent twice."""
    return Evidence(
        wallet_ids=[ALICE, BOB],
        exchanges=[
            exchange(0, DEPOSIT, DONE),
            exchange(1, SECOND, DONE),
            exchange(2, WITHDRAWAL, NoAnswer("connection lost"), ServiceAnswer(503, b""), DONE),
            exchange(3, TRANSFER, TRANSFERRED),
            exchange(4, REFUSED, TOO_LITTLE),
            exchange(5, DEPOSIT, DONE),
        ],
        shown={
            ALICE: Shown(
                Decimal("49.75"),
                (
                    event("WalletCreated", "0", "0", DEPOSIT, at=1),
                    event("FundsDeposited", "100", "100", DEPOSIT, at=2),
                    event("FundsWithdrawn", "-30.25", "69.75", WITHDRAWAL, at=3),
                    event("TransferInitiated", "0", "69.75", TRANSFER, at=4),
                    event("TransferDebited", "-20", "49.75", TRANSFER, at=5),
                ),
            ),
            BOB: Shown(
                Decimal("70.5"),
                (
                    event("FundsDeposited", "50.5", "50.5", SECOND, at=1),
                    event("TransferCredited", "20", "70.5", TRANSFER, at=5),
                ),
            ),
        },
        totals={
            ALICE: ExpectedTotals(Decimal(100), Decimal("30.25"), Decimal(20), Decimal(0)),
            BOB: ExpectedTotals(Decimal("50.5"), Decimal(0), Decimal(0), Decimal(20)),
        },
    )


def show(evidence: Evidence, wallet_id: WalletId, balance: str, *events: ShownEvent) -> None:
    evidence.shown[wallet_id] = Shown(Decimal(balance), events)


def faults_of(evidence: Evidence) -> dict[str, tuple[str, ...]]:
    return {check.promise: check.faults for check in check_run(evidence) if check.faults}


def answered(evidence: Evidence, number: int, *tries: ServiceAnswer | NoAnswer) -> Evidence:
    """The same run, but for what one request was answered."""
    exchanges = [replace(each, tries=tries) if each.request.number == number else each for each in evidence.exchanges]
    return replace(evidence, exchanges=exchanges)


def test_a_run_in_which_all_is_right_has_no_fault() -> None:
    checks = check_run(a_right_run())
    assert [check.faults for check in checks] == [()] * len(checks)
    assert all(check.is_checked for check in checks)
    assert "deposits 150.5000 − withdrawals 30.2500 = balances 120.2500" in [check.seen for check in checks]


def test_a_lost_update_is_found() -> None:
    evidence = a_right_run()
    *before, debited = evidence.shown[ALICE].events
    show(evidence, ALICE, "80", *before, replace(debited, new_balance=Decimal(80)))
    assert faults_of(evidence) == {
        "balances never jump": (
            "alice: TransferDebited -20.0000 with balance 80.0000, key k-transfer stands after 69.7500",
        ),
        "every balance is exact": ("alice has 80.0000, the answers add up to 49.7500 (+30.2500)",),
        "money is conserved": ("30.2500 appeared: deposits 150.5000 − withdrawals 30.2500 ≠ balances 150.5000",),
    }


def test_a_key_that_was_applied_twice_is_found() -> None:
    evidence = a_right_run()
    first, *rest = evidence.shown[BOB].events
    again = event("FundsDeposited", "50.5", "101", SECOND, at=2)
    show(evidence, BOB, "121", first, again, replace(rest[0], new_balance=Decimal(121)))
    faults = faults_of(evidence)
    assert faults["every key had one effect"] == (
        (
            "k-second (deposit of 50.5 to bob) was answered as done: the histories contain +50.5000 on bob 2 times; "
            "right is +50.5000 on bob"
        ),
    )
    assert faults["every balance is exact"] == ("bob has 121.0000, the answers add up to 70.5000 (+50.5000)",)
    assert set(faults) == {"every key had one effect", "every balance is exact", "money is conserved"}


def test_money_lost_in_a_transfer_is_found() -> None:
    evidence = a_right_run()
    show(evidence, BOB, "50.5", evidence.shown[BOB].events[0])
    faults = faults_of(evidence)
    assert faults["every key had one effect"] == (
        (
            "k-transfer (transfer of 20 from alice to bob) was answered as done: "
            "the histories contain -20.0000 on alice; right is -20.0000 on alice and +20.0000 on bob"
        ),
    )
    assert faults["money is conserved"] == (
        "20.0000 vanished: deposits 150.5000 − withdrawals 30.2500 ≠ balances 100.2500",
    )


def test_an_effect_with_another_amount_is_found() -> None:
    evidence = a_right_run()
    *before, debited = evidence.shown[ALICE].events
    show(evidence, ALICE, "49.76", *before, replace(debited, moved=Decimal("-19.99"), new_balance=Decimal("49.76")))
    assert "-19.9900 on alice" in faults_of(evidence)["every key had one effect"][0]


def test_a_replay_with_another_body_is_found() -> None:
    evidence = answered(a_right_run(), 5, ServiceAnswer(201, b'{"balance": "2.0000"}'))
    assert faults_of(evidence) == {
        "replays are identical": (
            'k-deposit was answered {"balance": "1.0000"}, and {"balance": "2.0000"} when it was sent again',
        )
    }


def test_a_replay_with_another_status_is_found() -> None:
    evidence = answered(a_right_run(), 5, ServiceAnswer(409, DONE.body))
    assert faults_of(evidence)["replays are identical"] == (
        "k-deposit was answered 201, and 409 when it was sent again",
    )


def test_a_replay_that_says_the_same_with_other_bytes_is_reported_and_is_no_fault() -> None:
    evidence = answered(a_right_run(), 5, ServiceAnswer(201, b'{"balance":"1.0000"}'))
    assert faults_of(evidence) == {}
    seen = {check.promise: check.seen for check in check_run(evidence)}
    assert seen["replays are identical"] == "1 replay, 1 of them with different bytes but equal JSON"


def test_a_negative_balance_is_found_also_when_it_was_made_good_later() -> None:
    evidence = a_right_run()
    first, second, *rest = evidence.shown[ALICE].events
    overdrawn = event("FundsWithdrawn", "-30.25", "-30.25", WITHDRAWAL, at=2)
    made_good = replace(second, occurred_at="2026-01-01T00:00:03Z", new_balance=Decimal("69.75"))
    show(evidence, ALICE, "49.75", first, overdrawn, made_good, *rest[1:])
    assert faults_of(evidence) == {"no balance was negative": ("alice had -30.2500",)}


def test_wrong_totals_are_found() -> None:
    evidence = a_right_run()
    evidence.totals[BOB] = replace(evidence.totals[BOB], total_transferred_in=Decimal(40))
    assert faults_of(evidence) == {
        "the worker's totals agree": ("bob totalTransferredIn is 40.0000, the answers add up to 20.0000",)
    }


def test_a_refused_key_that_had_an_effect_is_found() -> None:
    evidence = a_right_run()
    taken = event("FundsWithdrawn", "-70.5", "0", REFUSED, at=9)
    show(evidence, BOB, "0", *evidence.shown[BOB].events, taken)
    assert faults_of(evidence)["every key had one effect"] == (
        (
            "k-refused (withdrawal of 1000 from bob) was refused: "
            "the histories contain -70.5000 on bob; right is no effect"
        ),
    )


def test_an_event_of_no_key_is_found() -> None:
    evidence = a_right_run()
    stray = replace(event("FundsDeposited", "1", "71.5", SECOND, at=9), request_id=None)
    show(evidence, BOB, "71.5", *evidence.shown[BOB].events, stray)
    assert faults_of(evidence)["every key had one effect"] == (
        "bob: FundsDeposited +1.0000 with balance 71.5000 belongs to no key of this run",
    )


def test_a_balance_that_is_not_the_histories_last_is_found() -> None:
    evidence = a_right_run()
    evidence.shown[BOB] = replace(evidence.shown[BOB], balance=Decimal(70))
    assert faults_of(evidence)["balances never jump"] == ("bob: the history ends at 70.5000, the balance is 70.0000",)


def test_a_history_in_the_wrong_order_is_found_and_called_that() -> None:
    evidence = a_right_run()
    first, second, third, *rest = evidence.shown[ALICE].events
    show(evidence, ALICE, "49.75", first, third, second, *rest)
    (fault,) = faults_of(evidence)["balances never jump"]
    assert fault.endswith("stands after 0.0000 (each balance follows from another: only their order is wrong)")


def test_events_of_the_same_time_may_stand_in_any_order() -> None:
    evidence = a_right_run()
    first, *rest = (replace(each, occurred_at="2026-01-01T00:00:00Z") for each in evidence.shown[ALICE].events)
    show(evidence, ALICE, "49.75", *reversed(rest), first)
    assert faults_of(evidence) == {}


def test_a_jump_among_events_of_the_same_time_is_found() -> None:
    evidence = a_right_run()
    *before, debited = (replace(each, occurred_at="2026-01-01T00:00:00Z") for each in evidence.shown[ALICE].events)
    show(evidence, ALICE, "80", *before, replace(debited, new_balance=Decimal(80)))
    assert "balances never jump" in faults_of(evidence)


def test_an_event_without_a_balance_is_followed_by_its_amount() -> None:
    evidence = a_right_run()
    show(evidence, BOB, "70.5", *(replace(each, new_balance=None) for each in evidence.shown[BOB].events))
    assert faults_of(evidence) == {}


def test_a_transfers_events_need_not_name_its_key() -> None:
    evidence = a_right_run()
    for wallet_id, wallet in evidence.shown.items():
        nameless = [replace(each, request_id=None) if each.transfer_id else each for each in wallet.events]
        show(evidence, wallet_id, str(wallet.balance), *nameless)
    assert faults_of(evidence) == {}


def test_a_transfer_whose_money_came_back_has_no_effect() -> None:
    evidence = answered(a_right_run(), 3, ServiceAnswer(409, b'{"code": "transfer_failed"}'))
    back = event("TransferCompensated", "20", "69.75", TRANSFER, at=6)
    show(evidence, ALICE, "69.75", *evidence.shown[ALICE].events, back)
    show(evidence, BOB, "50.5", evidence.shown[BOB].events[0])
    evidence.totals[ALICE] = replace(evidence.totals[ALICE], total_transferred_out=Decimal(0))
    evidence.totals[BOB] = replace(evidence.totals[BOB], total_transferred_in=Decimal(0))
    assert faults_of(evidence) == {}
    # Some services answer such a transfer with a success that says so.
    assert faults_of(answered(evidence, 3, ServiceAnswer(201, b'{"transferId": "t1", "status": "failed"}'))) == {}


def test_a_server_error_is_found_also_when_a_retry_came_through() -> None:
    evidence = answered(a_right_run(), 1, ServiceAnswer(500, b"oh\n no"), DONE)
    assert faults_of(evidence) == {"no server errors": ("k-second (deposit of 50.5 to bob) was answered 500: oh no",)}


def test_a_request_that_was_never_answered_is_found_and_counts_as_the_history_shows_it() -> None:
    evidence = answered(a_right_run(), 1, NoAnswer("no answer in time"), NoAnswer("connection refused"))
    assert faults_of(evidence) == {
        "every request was answered": (
            "k-second (deposit of 50.5 to bob) got no answer in 2 tries: connection refused",
        )
    }


def test_a_request_that_was_never_answered_may_not_take_effect_twice() -> None:
    evidence = answered(a_right_run(), 1, NoAnswer("no answer in time"))
    again = event("FundsDeposited", "50.5", "121", SECOND, at=9)
    show(evidence, BOB, "121", *evidence.shown[BOB].events, again)
    assert "+50.5000 on bob 2 times" in faults_of(evidence)["every key had one effect"][0]


def test_a_deposit_that_was_refused_is_found() -> None:
    evidence = answered(
        answered(a_right_run(), 0, ServiceAnswer(404, b"no such page")), 5, ServiceAnswer(404, b"no such page")
    )
    assert faults_of(evidence)["every request was answered"][0] == (
        "k-deposit (deposit of 100 to alice) was answered 404: no such page"
    )


def test_what_cannot_be_read_is_named_and_nothing_is_said_of_the_rest() -> None:
    evidence = a_right_run()
    del evidence.shown[BOB]
    evidence.unreadable[BOB] = "GET /wallet/bob/history was answered 500"
    assert faults_of(evidence) == {"every wallet can be read": ("GET /wallet/bob/history was answered 500",)}
    assert [check.promise for check in check_run(evidence) if not check.is_checked] == [
        "every key had one effect",
        "balances never jump",
        "no balance was negative",
        "every balance is exact",
        "money is conserved",
        "the worker's totals agree",
    ]
