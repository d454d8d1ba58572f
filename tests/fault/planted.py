"""Faults, each planted in a correct run: each has exactly the traces that a wrong ledger would leave.

Each function falsifies one randomly chosen item, and returns a text that the reported fault must contain.
"""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from typing import Final

from tests.fault import checker
from tests.fault.right_ledger import NOT_EXECUTED
from tests.fault.right_ledger import NOT_NOW as UNKNOWN
from tests.fault.victim import Victim, answer_of, is_refused, is_success, moved_up
from wallet.stress import findings
from wallet.stress.exchanges import NoAnswer, ServiceAnswer, Timing, TriedRequest
from wallet.stress.operations import Key, OperationKind, WalletId

SERVER_ERROR: Final = b'{"title": "The service failed", "status": 500, "code": "internal_error"}'


def lost_update(victim: Victim) -> str:
    """Falsify an update: computed from the balance before the previous update, it undoes that update."""
    shown = victim.ledger.books.shown
    every = [(wallet_id, *each) for wallet_id in shown for each in enumerate(pairwise(shown[wallet_id].events))]
    moving = [each for each in every if each[2][0].moved and each[2][1].moved]
    wallet_id, index, (before, event) = victim.draw.choice(moving)
    victim.put(wallet_id, index + 1, moved_up(event, -before.moved), also=-before.moved)
    return f"{wallet_id}: {event.type}"


def double_apply(victim: Victim) -> str:
    wallet_id, index, event = victim.event("FundsDeposited")
    assert event.request_id is not None
    victim.put(wallet_id, index + 1, victim.copy(moved_up(event, event.moved)), instead_of=0)
    return event.request_id


def lost_event(victim: Victim) -> str:
    wallet_id, index, event = victim.event("FundsDeposited", "FundsWithdrawn")
    assert event.request_id is not None
    victim.put(wallet_id, index)
    return event.request_id


def event_without_request(victim: Victim) -> str:
    wallet_id, index, event = victim.event("FundsDeposited")
    victim.put(wallet_id, index + 1, victim.copy(moved_up(event, event.moved), request_id="nobody"), instead_of=0)
    return wallet_id


def silent_event_without_request(victim: Victim) -> str:
    wallet_id, index, event = victim.event("TransferCompleted")
    victim.put(wallet_id, index + 1, victim.copy(event, request_id="nobody"), instead_of=0)
    return "nobody"


def event_of_a_key_elsewhere(victim: Victim) -> str:
    _, _, event = victim.event("FundsDeposited")
    victim.ledger.books.elsewhere.append((WalletId("stranger"), victim.copy(event)))
    return "FundsDeposited on stranger"


def debit_without_credit(victim: Victim) -> str:
    wallet_id, index, event = victim.event("TransferCredited")
    victim.put(wallet_id, index)
    return str(event.request_id)


def credit_without_debit(victim: Victim) -> str:
    wallet_id, index, event = victim.event("TransferDebited")
    victim.put(wallet_id, index)
    return str(event.request_id)


def credit_of_another_amount(victim: Victim) -> str:
    wallet_id, index, event = victim.event("TransferCredited")
    cent = Decimal("0.0001")
    victim.put(wallet_id, index, replace(moved_up(event, cent), moved=event.moved + cent))
    return str(event.request_id)


def transfer_that_never_completed(victim: Victim) -> str:
    wallet_id, index, event = victim.event("TransferCompleted")
    victim.put(wallet_id, index)
    return str(event.request_id)


def wrong_balance_answered(victim: Victim) -> str:
    index, exchange = victim.exchange(is_success)
    body = answer_of(exchange).body
    name = b'"balance":"' if b'"balance"' in body else b'"fromBalance":"'
    victim.replace_tries(index, ServiceAnswer(201, body.replace(name, name + b"1")))
    return exchange.request.operation.key


def answer_of_another_key(victim: Victim) -> str:
    index, exchange = victim.exchange()
    _, other = victim.exchange(lambda each: each.request.operation.key != exchange.request.operation.key)
    victim.replace_tries(index, answer_of(other))
    return exchange.request.operation.key


def stale_order(victim: Victim) -> str:
    shown = victim.ledger.books.shown
    wallet_id = max(shown, key=lambda each: len(shown[each].events))
    first, last = (Key(str(shown[wallet_id].events[index].request_id)) for index in (1, -1))
    behind = [each for each in enumerate(victim.ledger.books.exchanges) if each[1].request.operation.key == last]
    earliest = min(each.sent_at_seconds for each in victim.ledger.books.exchanges)
    for index, _ in behind:
        victim.replace_tries(index, sent_at_seconds=earliest - 2, ended_at_seconds=earliest - 1)
    assert first != last
    return last


def journal_against_versions(victim: Victim) -> str:
    wallet_id, _, event = victim.event("FundsWithdrawn")
    victim.ledger.books.places[event.event_id] = (0, 0)
    return f"{wallet_id}: "


def refusal_with_enough_money(victim: Victim) -> str:
    """Answer a withdrawal as refused, and remove all traces of its execution."""
    wallet_id, index, event = victim.event("FundsWithdrawn")
    victim.put(wallet_id, index)
    had = victim.ledger.books.shown[wallet_id].events[index - 1].new_balance
    refuse(victim, Key(str(event.request_id)), wallet_id, f"Wallet {wallet_id} holds {had:.4f}, too little.")
    return str(event.request_id)


def refusal_with_another_balance(victim: Victim) -> str:
    _, exchange = victim.exchange(lambda each: is_refused(each) and b"insufficient" in answer_of(each).body)
    operation = exchange.request.operation
    refuse(victim, operation.key, operation.wallet_id, "It holds 0.0001, too little.")
    return operation.key


def refusal_of_a_wallet_that_is_there(victim: Victim) -> str:
    half = len(victim.ledger.books.exchanges) // 2
    _, exchange = victim.exchange(
        lambda each: (
            b"insufficient" in answer_of(each).body
            and each.request.number > half
            and each.request.operation.key.endswith(f"-{each.request.number}")
        )
    )
    operation = exchange.request.operation
    refuse(victim, operation.key, operation.wallet_id, "It is not there.", code="wallet_not_found")
    return operation.key


def refuse(victim: Victim, key: Key, wallet_id: WalletId, detail: str, code: str = "insufficient_funds") -> None:
    status = 404 if code == "wallet_not_found" else 400
    body = f'{{"status":{status},"code":"{code}","detail":"{detail}","requestId":"{key}"}}'.encode()
    stored = victim.ledger.books.stored
    stored[wallet_id, key] = replace(stored[wallet_id, key], status=status, response=body)
    for index, exchange in enumerate(victim.ledger.books.exchanges):
        if exchange.request.operation.key == key:
            victim.replace_tries(index, ServiceAnswer(status, body))


def refused_key_with_an_effect(victim: Victim) -> str:
    _, exchange = victim.exchange(
        lambda each: is_refused(each) and each.request.operation.kind is OperationKind.WITHDRAW
    )
    operation = exchange.request.operation
    wallet_id, index, event = victim.event("FundsDeposited")
    victim.put(wallet_id, index + 1, victim.copy(moved_up(event, event.moved), request_id=operation.key), instead_of=0)
    return operation.key


def refusal_that_was_not_kept(victim: Victim) -> str:
    _, exchange = victim.exchange(is_refused)
    operation = exchange.request.operation
    del victim.ledger.books.stored[operation.wallet_id, operation.key]
    return operation.key


def outcome_without_request(victim: Victim) -> str:
    (wallet_id, _), stored = next(iter(victim.ledger.books.stored.items()))
    victim.ledger.books.stored[wallet_id, Key("nobody")] = stored
    return "nobody"


def server_error(victim: Victim) -> str:
    index, exchange = victim.exchange()
    victim.replace_tries(index, ServiceAnswer(500, SERVER_ERROR), *exchange.tries)
    return exchange.request.operation.key


def open_outcome(victim: Victim) -> str:
    index, exchange = victim.exchange()
    victim.replace_tries(index, *exchange.tries[:-1], NoAnswer("no answer in time"))
    return exchange.request.operation.key


def repeated(victim: Victim) -> tuple[int, TriedRequest]:
    keys = [each.request.operation.key for each in victim.ledger.books.exchanges]
    return victim.exchange(lambda each: keys.count(each.request.operation.key) > 1)


def replay_with_other_bytes(victim: Victim) -> str:
    index, exchange = repeated(victim)
    victim.replace_tries(index, replace(answer_of(exchange), body=answer_of(exchange).body + b" "))
    return exchange.request.operation.key


def replay_with_another_status(victim: Victim) -> str:
    index, exchange = repeated(victim)
    victim.replace_tries(index, replace(answer_of(exchange), status=409))
    return exchange.request.operation.key


def sum_that_was_off(victim: Victim) -> str:
    moment = victim.draw.randrange(len(victim.ledger.sums))
    victim.ledger.sums[moment] = Decimal("-0.0001")
    return f"moment {moment + 1}: 0.0001 too little"


def leak(victim: Victim) -> str:
    index, exchange = victim.exchange()
    secret = victim.draw.choice((b"Traceback (most recent call last)", b"http://owner:secret@host/", b"asyncpg.Error"))
    victim.replace_tries(index, ServiceAnswer(503, b'{"detail": "%s"}' % secret), *exchange.tries)
    return exchange.request.operation.key


def wrong_total(victim: Victim) -> str:
    wallet_id = victim.draw.choice(victim.ledger.books.wallet_ids)
    totals = victim.ledger.books.totals
    totals[wallet_id] = replace(totals[wallet_id], total_withdrawn=totals[wallet_id].total_withdrawn + 1)
    return f"{wallet_id} totalWithdrawn"


def balance_row_of_its_own(victim: Victim) -> str:
    wallet_id = victim.draw.choice(victim.ledger.books.wallet_ids)
    shown = victim.ledger.books.shown
    shown[wallet_id] = replace(shown[wallet_id], balance=shown[wallet_id].balance + 1)
    return f"{wallet_id}: the history ends at"


def negative_balance(victim: Victim) -> str:
    wallet_id, index, event = victim.event("FundsWithdrawn")
    assert event.new_balance is not None
    more = event.new_balance + 1
    victim.put(wallet_id, index, replace(moved_up(event, -more), moved=event.moved - more))
    return f"{wallet_id} had -"


def credit_before_its_debit(victim: Victim) -> str:
    _, _, event = victim.event("TransferCredited")
    victim.ledger.books.places[event.event_id] = (0, 0)
    return str(event.request_id)


def wallet_made_twice(victim: Victim) -> str:
    wallet_id, index, _ = victim.event("FundsDeposited")
    _, _, made = victim.event("WalletCreated")
    before = victim.ledger.books.shown[wallet_id].events[index]
    victim.put(wallet_id, index + 1, victim.copy(made, new_balance=before.new_balance), instead_of=0)
    return f"{wallet_id} was made by its versions"


def not_executed_after_unknown(victim: Victim) -> str:
    """Let a first attempt of unknown outcome take effect after its retry was answered `not_executed`."""
    return answer_attempts(victim, UNKNOWN, NOT_EXECUTED)


def not_executed_and_yet_done(victim: Victim) -> str:
    return answer_attempts(victim, NOT_EXECUTED)


def answer_attempts(victim: Victim, *bodies: bytes) -> str:
    """Answer a key's attempts with these bodies, one after the other, and then with a replayed outcome."""
    keys = [each.request.operation.key for each in victim.ledger.books.exchanges]
    index, exchange = victim.exchange(lambda each: keys.count(each.request.operation.key) == 1)
    times = [exchange.sent_at_seconds + number / 10 for number in range(len(bodies) + 2)]
    timings = [Timing("http://right", *each) for each in pairwise(times)]
    refusals = [ServiceAnswer(503, body, timing=timing) for body, timing in zip(bodies, timings, strict=False)]
    victim.replace_tries(index, *refusals, replace(answer_of(exchange), is_replayed=True, timing=timings[-1]))
    return exchange.request.operation.key


PLANTED: Final[dict[Callable[[Victim], str], str]] = {
    lost_update: findings.NO_JUMPS,
    double_apply: findings.ONE_EFFECT,
    lost_event: findings.ONE_EFFECT,
    event_without_request: findings.ONE_EFFECT,
    silent_event_without_request: checker.EVENTS_MATCH,
    event_of_a_key_elsewhere: checker.EVENTS_MATCH,
    debit_without_credit: findings.ONE_EFFECT,
    credit_without_debit: findings.ONE_EFFECT,
    credit_of_another_amount: findings.ONE_EFFECT,
    credit_before_its_debit: checker.EVENTS_MATCH,
    transfer_that_never_completed: checker.EVENTS_MATCH,
    wallet_made_twice: checker.EVENTS_MATCH,
    wrong_balance_answered: checker.ANSWERS_TRUE,
    answer_of_another_key: checker.ANSWERS_TRUE,
    stale_order: checker.ORDERED,
    journal_against_versions: checker.ORDERED,
    refusal_with_enough_money: checker.REFUSALS_DUE,
    refusal_with_another_balance: checker.REFUSALS_DUE,
    refusal_of_a_wallet_that_is_there: checker.REFUSALS_DUE,
    refused_key_with_an_effect: findings.ONE_EFFECT,
    refusal_that_was_not_kept: checker.ANSWERS_STORED,
    outcome_without_request: checker.ANSWERS_STORED,
    server_error: "no server errors",
    open_outcome: "every request was answered",
    replay_with_other_bytes: checker.SAME_BYTES,
    replay_with_another_status: "replays are identical",
    sum_that_was_off: checker.CONSTANT,
    not_executed_after_unknown: checker.NOT_EXECUTED,
    not_executed_and_yet_done: checker.NOT_EXECUTED,
    leak: checker.NO_LEAKS,
    wrong_total: findings.COUNTED,
    balance_row_of_its_own: findings.NO_JUMPS,
    negative_balance: findings.NO_NEGATIVES,
}
"""Each fault, and the check that must find it."""
