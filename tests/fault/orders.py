"""Checks that the journal's order explains every answer.

The journal orders all events: its batches by their seq, the events in each by their ordinal. A batch's seq is drawn
while its wallets are locked, and before its COMMIT. So this order must agree with every wallet's versions, and a
request that was answered before another was sent must precede it. A refusal must be right for a state that its wallet
had in its batch.
"""

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

from tests.fault.evidence import Books
from wallet.stress.client import decode_json
from wallet.stress.exchanges import ServiceAnswer, TriedRequest
from wallet.stress.histories import Shown
from wallet.stress.operations import Key, Operation

NEVER_SECONDS = float("inf")
BALANCE_MAX = Decimal("9999999999999999.9999")
REPORTED_BALANCE = re.compile(r"\bholds ([0-9]+\.[0-9]{4}),")


@dataclass(frozen=True, slots=True)
class Sent:
    """One key, with the times of its first byte and of its first definite answer; it took effect between them."""

    operation: Operation
    sent_at_seconds: float
    answered_at_seconds: float
    answer: ServiceAnswer | None


def sent_by_key(exchanges: Sequence[TriedRequest]) -> dict[Key, Sent]:
    """Returns every key that was sent, once for all of its requests."""
    by_key: defaultdict[Key, list[TriedRequest]] = defaultdict(list)
    for exchange in exchanges:
        by_key[exchange.request.operation.key].append(exchange)
    return {key: _sent(same_key) for key, same_key in by_key.items()}


def _sent(exchanges: Sequence[TriedRequest]) -> Sent:
    answered = [exchange for exchange in exchanges if exchange.answer is not None]
    first = min(answered, key=lambda exchange: exchange.ended_at_seconds, default=None)
    return Sent(
        operation=exchanges[0].request.operation,
        sent_at_seconds=min(exchange.sent_at_seconds for exchange in exchanges),
        answered_at_seconds=NEVER_SECONDS if first is None else first.ended_at_seconds,
        answer=None if first is None else first.answer,
    )


def refused(sent: Mapping[Key, Sent]) -> list[tuple[Key, Sent, ServiceAnswer]]:
    """Returns the keys whose first definite answer was a refusal."""
    return [(key, each, each.answer) for key, each in sent.items() if each.answer and not each.answer.is_success]


def fields_of(answer: ServiceAnswer) -> dict[str, Any]:
    """Returns the fields of the answer, and none if it is not a JSON object."""
    try:
        value = decode_json(answer.body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def wrong_orders(sent: Mapping[Key, Sent], books: Books) -> Iterator[str]:
    """Yields where the journal's order contradicts the wallets' versions, or what the clients saw."""
    for wallet_id, wallet in books.shown.items():
        for event in wallet.events:
            if event.event_id not in books.places:
                yield f"{wallet_id}: {event.type}, key {event.request_id}, stands in no batch of the journal"
        placed = [event for event in wallet.events if event.event_id in books.places]
        for one, other in pairwise(placed):
            if books.places[one.event_id] >= books.places[other.event_id]:
                yield (
                    f"{wallet_id}: {one.type}, key {one.request_id}, has a lower version than {other.type}, "
                    f"key {other.request_id}, and stands behind it in the journal"
                )
        sealed = [event for event in wallet.events if event.event_id in books.sealed]
        for one, other in pairwise(sealed):
            if books.sealed[one.event_id] >= books.sealed[other.event_id]:
                yield (
                    f"{wallet_id}: {one.type}, key {one.request_id}, has a lower version than {other.type}, "
                    f"key {other.request_id}, and was sealed behind it"
                )
    yield from _wrong_times(sent, books)


def _wrong_times(sent: Mapping[Key, Sent], books: Books) -> Iterator[str]:
    """Yields requests that were answered before another was sent, but are after it or in the same batch."""
    latest: Sent | None = None
    for seq, keys in sorted(_keys_by_seq(books).items()):
        members = [sent[key] for key in sorted(keys) if key in sent]
        for each in members:
            if latest is None or each.sent_at_seconds > latest.sent_at_seconds:
                latest = each
        for each in members:
            if latest is not None and each.answered_at_seconds < latest.sent_at_seconds:
                one, other = each.operation, latest.operation
                yield (
                    f"{one.key} ({one}) was answered before {other.key} ({other}) was sent, "
                    f"and does not stand before it in the journal, but at seq {seq}"
                )


def _keys_by_seq(books: Books) -> Mapping[int, set[Key]]:
    keys: defaultdict[int, set[Key]] = defaultdict(set)
    for wallet in books.shown.values():
        for event in wallet.events:
            if event.event_id in books.places:
                keys[books.places[event.event_id][0]].add(Key(event.request_id or ""))
    for (_, key), stored in books.stored.items():
        if stored.seq is not None:
            keys[stored.seq].add(key)
    return keys


def undue_refusals(sent: Mapping[Key, Sent], books: Books) -> Iterator[str]:
    """Yields refusals that were wrong at every moment at which they can have been decided.

    A refusal is right if its wallet had too little money, too much money, or did not exist.
    """
    states = {wallet_id: _States.of(wallet, books) for wallet_id, wallet in books.shown.items()}
    seen_since = {wallet_id: _first_answer(wallet, sent) for wallet_id, wallet in books.shown.items()}
    for key, each, answer in refused(sent):
        operation, fields = each.operation, fields_of(answer)
        code, wallet_id = fields.get("code"), operation.wallet_id
        stored = books.stored.get((wallet_id, key))
        had = states[wallet_id].at(None if stored is None else stored.seq)
        match code:
            case "insufficient_funds":
                is_due = any(_is_too_poor(balance, operation.amount, fields) for balance in had)
            case "wallet_not_found":
                # Without a wallet there is no row to lock: a batch that creates it meanwhile may get the lower seq.
                is_due = seen_since[wallet_id] >= each.sent_at_seconds
            case "balance_limit_exceeded" | "transfer_failed":
                wallet_id = operation.to_wallet_id or wallet_id
                had = states[wallet_id].up_to(None if stored is None else stored.seq)
                is_due = any(balance + operation.amount > BALANCE_MAX for balance in had)
            case _:
                is_due = False
        if not is_due:
            yield f"{key} ({operation}) was refused: {code}, {_reported(fields)}but {wallet_id} had {_listed(had)}"


@dataclass(frozen=True, slots=True)
class _States:
    """A wallet's balances in order of their versions, each with the seq of its batch."""

    seqs: Sequence[int]
    balances: Sequence[Decimal]

    @classmethod
    def of(cls, wallet: Shown, books: Books) -> "_States":
        """Returns only states that a command can see, so not those between the events of one command."""
        events = [event for event in wallet.events if event.event_id in books.places]
        steps = [(books.places[event.event_id][0], event.request_id) for event in events]
        last_of_step = [step != after for step, after in zip(steps, [*steps[1:], None], strict=True)] if steps else []
        kept = [
            (step[0], event.new_balance)
            for step, event, is_last in zip(steps, events, last_of_step, strict=True)
            if is_last and event.new_balance is not None
        ]
        return cls([seq for seq, _ in kept], [balance for _, balance in kept])

    def at(self, seq: int | None) -> Sequence[Decimal]:
        """Returns its balances when the batch began, and after each command in it."""
        if seq is None:
            return self.balances
        return self.balances[max(bisect_left(self.seqs, seq) - 1, 0) : bisect_right(self.seqs, seq)]

    def up_to(self, seq: int | None) -> Sequence[Decimal]:
        """Returns its balances in that batch or before: a stepwise transfer is refused first, and fails later."""
        return self.balances if seq is None else self.balances[: bisect_right(self.seqs, seq)]


def _first_answer(wallet: Shown, sent: Mapping[Key, Sent]) -> float:
    """Returns when a client knew for the first time that the wallet existed."""
    keys = {Key(event.request_id or "") for event in wallet.events}
    return min((sent[key].answered_at_seconds for key in keys if key in sent), default=NEVER_SECONDS)


def _is_too_poor(balance: Decimal, amount: Decimal, fields: Mapping[str, Any]) -> bool:
    reported = REPORTED_BALANCE.search(str(fields.get("detail")))
    return balance < amount and reported is not None and Decimal(reported[1]) == balance


def _reported(fields: Mapping[str, Any]) -> str:
    reported = REPORTED_BALANCE.search(str(fields.get("detail")))
    return "" if reported is None else f"with the reported balance {reported[1]}, "


def _listed(values: Sequence[Decimal]) -> str:
    return " or ".join(f"{value:.4f}" for value in values[:5]) or "nothing"
