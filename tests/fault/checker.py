"""Joins a history with the database, and checks that one order of events explains every answer.

The stress tool's checks cover what needs no order of events (one effect for each key, exact balances, totals), and
orders.py checks the order. This module compares every answer with the database's data for its key: exactly its
events, in their order; its stored outcome, byte for byte; and each field of the answer.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from tests.fault.attempts import wrongly_not_executed
from tests.fault.evidence import Books
from tests.fault.orders import Sent, fields_of, refused, sent_by_key, undue_refusals, wrong_orders
from wallet.stress.exchanges import ServiceAnswer, TriedRequest
from wallet.stress.findings import RunCheck, check_of, check_run, count_of
from wallet.stress.histories import ShownEvent
from wallet.stress.operations import Key, Operation, OperationKind, WalletId

EVENTS_MATCH = "each key has its events"
ANSWERS_TRUE = "answers match what is logged"
ANSWERS_STORED = "answers are stored"
SAME_BYTES = "replays are the same bytes"
ORDERED = "answered before = stands before"
REFUSALS_DUE = "refusals were due"
CONSTANT = "money is constant"
NO_LEAKS = "nothing leaks"
NOT_EXECUTED = "not_executed was true"

SECRETS = re.compile(rb"""(?i)traceback|\w+://[^\s/"]*@|(postgresql|postgres|amqps?)://|asyncpg|\bpika\b|\.py\b""")
TRANSFER_FAILED = "transfer_failed"

Logged = tuple[WalletId, ShownEvent]
"""An event and its wallet."""


def check_history(books: Books, sums: Sequence[Decimal]) -> list[RunCheck]:
    """Returns every check of a run; a fault names the key, the wallet or the moment."""
    sent = sent_by_key(books.exchanges)
    logged = _logged_by_key(books)
    keys, refusals = count_of(len(sent), "key"), count_of(len(refused(sent)), "refusal")
    answers = [(exchange, exchange.answer) for exchange in books.exchanges if exchange.answer is not None]
    answer_count = count_of(len(answers), "answer")
    return [
        *check_run(books),
        check_of(EVENTS_MATCH, keys, [*_wrong_events(sent, logged), *_wrong_creations(books)]),
        check_of(ANSWERS_TRUE, answer_count, _wrong_answers(answers, logged)),
        check_of(ANSWERS_STORED, answer_count, [*_unstored(answers, books), *_unasked(sent, books)]),
        check_of(SAME_BYTES, answer_count, _other_bytes(sent, answers)),
        check_of(ORDERED, keys, wrong_orders(sent, books)),
        check_of(REFUSALS_DUE, refusals, undue_refusals(sent, books)),
        check_of(CONSTANT, count_of(len(sums), "moment"), _wrong_sums(sums)),
        check_of(NOT_EXECUTED, keys, wrongly_not_executed(books.exchanges, books.starts)),
        check_of(NO_LEAKS, count_of(len(books.exchanges), "request"), _leaks(books.exchanges)),
    ]


def _logged_by_key(books: Books) -> dict[Key, list[Logged]]:
    """Returns each key's events in the journal's order; events that are in no batch are last."""
    everywhere = [(wallet_id, event) for wallet_id, wallet in books.shown.items() for event in wallet.events]
    by_key: defaultdict[Key, list[Logged]] = defaultdict(list)
    for wallet_id, event in [*everywhere, *books.elsewhere]:
        by_key[Key(event.request_id or "")].append((wallet_id, event))
    nowhere = (2**63, 0)
    for events in by_key.values():
        events.sort(key=lambda each: books.places.get(each[1].event_id, nowhere))
    return dict(by_key)


def _wrong_events(sent: Mapping[Key, Sent], logged: Mapping[Key, Sequence[Logged]]) -> Iterator[str]:
    """Check that each key has exactly the events that follow from its answer, in order, and each event a request."""
    for key, each in sent.items():
        events = logged.get(key, [])
        found = [(wallet_id, event.type) for wallet_id, event in events if event.type != "WalletCreated"]
        right = _right_events(each)
        if found not in right:
            yield f"{key} ({each.operation}) has the events {_listed(found)}; right is {_listed(right[0])}"
        if len({event.transfer_id for _, event in events if event.type.startswith("Transfer")}) > 1:
            yield f"{key} ({each.operation}) has events of several transfers"
    for key in logged.keys() - sent.keys():
        wallet_id, event = logged[key][0]
        yield f"{wallet_id}: {event.type} of the key {key or 'that is missing'}, which nobody sent"


def _right_events(sent: Sent) -> list[list[tuple[WalletId, str]]]:
    operation, answer = sent.operation, sent.answer
    done, failed = _done(operation), _failed(operation)
    if answer is None:
        return [done, [], failed]
    if answer.is_success:
        return [done]
    return [failed] if fields_of(answer).get("code") == TRANSFER_FAILED else [[]]


def _done(operation: Operation) -> list[tuple[WalletId, str]]:
    own = operation.wallet_id
    match operation.kind:
        case OperationKind.DEPOSIT:
            return [(own, "FundsDeposited")]
        case OperationKind.WITHDRAW:
            return [(own, "FundsWithdrawn")]
        case OperationKind.TRANSFER:
            assert operation.to_wallet_id is not None
            credited = (operation.to_wallet_id, "TransferCredited")
            return [(own, "TransferInitiated"), (own, "TransferDebited"), credited, (own, "TransferCompleted")]


def _failed(operation: Operation) -> list[tuple[WalletId, str]]:
    """Returns the events of a stepwise transfer that the receiver refused; other operations leave none."""
    types = ("TransferInitiated", "TransferDebited", "TransferCompensated", "TransferFailed")
    return [(operation.wallet_id, each) for each in types] if operation.kind is OperationKind.TRANSFER else []


def _wrong_creations(books: Books) -> Iterator[str]:
    """Check that a wallet is created once, by its first event, and that the credit of the same key follows."""
    for wallet_id, wallet in books.shown.items():
        versions = [version for version, event in enumerate(wallet.events, 1) if event.type == "WalletCreated"]
        if wallet.events and versions != [1]:
            yield f"{wallet_id} was made by its versions {versions}; right is [1]"
        elif wallet.events and [event.request_id for event in wallet.events[:2]] != [wallet.events[0].request_id] * 2:
            yield f"{wallet_id} was made for the key {wallet.events[0].request_id}, whose credit does not follow"


def _wrong_answers(
    answers: Sequence[tuple[TriedRequest, ServiceAnswer]], logged: Mapping[Key, Sequence[Logged]]
) -> Iterator[str]:
    """Check that an answer belongs to its key, and has the balances that the log has after its events."""
    for exchange, answer in answers:
        operation, fields = exchange.request.operation, fields_of(answer)
        for name, right in _right_fields(operation, answer, logged.get(operation.key, [])).items():
            if fields.get(name) not in right:
                rights = " or ".join(map(str, right)) or "none"
                yield f"{operation.key} ({operation}) was answered {name} {fields.get(name)}, right is {rights}"


def _right_fields(operation: Operation, answer: ServiceAnswer, events: Sequence[Logged]) -> dict[str, list[object]]:
    """Returns the right values of each field of the answer; there is one for each, unless something else is wrong."""

    def balances(wallet_id: WalletId | None, event_type: str) -> list[object]:
        return [f"{event.new_balance:.4f}" for owner, event in events if (owner, event.type) == (wallet_id, event_type)]

    if not answer.is_success:
        return {"status": [answer.status], "requestId": [operation.key]}
    if operation.kind is not OperationKind.TRANSFER:
        return {
            "walletId": [operation.wallet_id],
            "requestId": [operation.key],
            "balance": balances(*_done(operation)[0]),
            "created": [any(event.type == "WalletCreated" for _, event in events)],
        }
    return {
        "transferId": [event.transfer_id for _, event in events if event.type == "TransferInitiated"],
        "fromWalletId": [operation.wallet_id],
        "toWalletId": [operation.to_wallet_id],
        "amount": [f"{operation.amount:.4f}"],
        "status": ["completed"],
        "requestId": [operation.key],
        # Between the debit and the end of a stepwise transfer other requests may have moved the sender's balance.
        "fromBalance": balances(operation.wallet_id, "TransferCompleted"),
        "toBalance": balances(operation.to_wallet_id, "TransferCredited"),
    }


def _unstored(answers: Sequence[tuple[TriedRequest, ServiceAnswer]], books: Books) -> Iterator[str]:
    """Check that answered outcomes are stored: otherwise the same key would get another outcome later."""
    for exchange, answer in answers:
        operation = exchange.request.operation
        stored = books.stored.get((operation.wallet_id, operation.key))
        if stored is None:
            yield f"{operation.key} ({operation}) was answered {answer.status}, and nothing is stored for it"
        elif (stored.status, stored.response) != (answer.status, answer.body):
            yield (
                f"{operation.key} ({operation}) was answered {answer.status} {_text(answer.body)}, "
                f"stored is {stored.status} {_text(stored.response or b'')}"
            )


def _unasked(sent: Mapping[Key, Sent], books: Books) -> Iterator[str]:
    for wallet_id, key in books.stored:
        if key not in sent or sent[key].operation.wallet_id != wallet_id:
            yield f"{wallet_id} has an outcome for the key {key}, which nobody sent to it"


def _other_bytes(sent: Mapping[Key, Sent], answers: Sequence[tuple[TriedRequest, ServiceAnswer]]) -> Iterator[str]:
    for exchange, answer in answers:
        key = exchange.request.operation.key
        first = sent[key].answer
        if first is not None and (first.status, first.body) != (answer.status, answer.body):
            yield (
                f"{key} was answered {first.status} {_text(first.body)}, "
                f"and {answer.status} {_text(answer.body)} when it was sent again"
            )


def _wrong_sums(sums: Sequence[Decimal]) -> Iterator[str]:
    for number, off in enumerate(sums, start=1):
        if off:
            yield f"moment {number}: {abs(off):,.4f} {'too much' if off > 0 else 'too little'}"


def _leaks(exchanges: Sequence[TriedRequest]) -> Iterator[str]:
    for exchange in exchanges:
        for attempt in exchange.tries:
            if isinstance(attempt, ServiceAnswer) and SECRETS.search(attempt.body):
                yield f"{exchange.request.operation.key} was answered {attempt.status}: {_text(attempt.body)}"


def _listed(events: Sequence[tuple[WalletId, str]]) -> str:
    return ", ".join(f"{event_type} on {wallet_id}" for wallet_id, event_type in events) or "none"


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace")
