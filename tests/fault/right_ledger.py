"""A correct ledger in memory, with clients that send at the same time, lose answers and retry.

It shares no code with the wallet or the checker. A batch decides some of the requests in progress, in random order;
an attempt may end without an answer before or after that; a retry may overtake the first attempt.
"""

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import msgspec

from tests.fault.evidence import Books, Stored
from wallet.stress.exchanges import NoAnswer, ServiceAnswer, Timing, TriedRequest
from wallet.stress.histories import SIGNS, Shown, ShownEvent
from wallet.stress.operations import Key, Operation, OperationKind, PlannedRequest, WalletId
from wallet.stress.outcomes import ZERO, ExpectedTotals

SENDERS = 8
BATCH_MAX = 4
BALANCE_MAX = Decimal("9999999999999999.9999")
URL = "http://right"
NOT_EXECUTED = b'{"title": "This attempt was not executed", "status": 503, "code": "not_executed"}'
NOT_NOW = b'{"title": "The outcome of the request is unknown", "status": 503, "code": "outcome_unknown"}'


@dataclass
class Sending:
    """A request in progress; its answer is sent as soon as it has its outcome."""

    request: PlannedRequest
    sent_at_seconds: float
    try_sent_at_seconds: float
    tries: list[ServiceAnswer | NoAnswer] = field(default_factory=list)
    has_arrived: bool = False


@dataclass
class RightLedger:
    """Plays requests; the results are `books` and `sums`."""

    draw: random.Random
    is_stepwise: bool = False
    events: defaultdict[WalletId, list[ShownEvent]] = field(default_factory=lambda: defaultdict(list))
    books: Books = field(default_factory=lambda: Books([], []))
    sums: list[Decimal] = field(default_factory=list)
    _exchanges: list[TriedRequest] = field(default_factory=list)
    _under_way: list[Sending] = field(default_factory=list)
    _decided_by: dict[Key, tuple[int, int]] = field(default_factory=dict)
    """The request and the attempt that decided a key. `_all` keeps every `Sending`, so that no id() is used twice."""
    _all: list[Sending] = field(default_factory=list)
    _uncertain: set[Key] = field(default_factory=set)
    _seconds: float = 0.0
    _seq: int = 0
    _ordinal: int = 0

    def play(
        self, requests: Iterable[PlannedRequest], wallet_ids: Iterable[WalletId], *, senders: int = SENDERS
    ) -> None:
        """Send all requests, in order, as senders become free, until each has its answer."""
        waiting = list(requests)[::-1]
        while waiting or self._under_way:
            self._seconds += 1.0
            if waiting and len(self._under_way) < senders and (not self._under_way or self.draw.randrange(2)):
                self._under_way.append(Sending(waiting.pop(), self._seconds, self._seconds))
                self._all.append(self._under_way[-1])
            else:
                self.draw.choice((self._arrive, self._decide_batch, self._lose))()
        self.books = replace(self.books, wallet_ids=list(wallet_ids), exchanges=self._exchanges)
        for wallet_id in self.books.wallet_ids:
            self.books.shown[wallet_id] = Shown(self.balance(wallet_id), tuple(self.events[wallet_id]))
            self.books.totals[wallet_id] = self._totals(wallet_id)

    def balance(self, wallet_id: WalletId) -> Decimal:
        """Returns the balance after the wallet's last event."""
        last = self.events[wallet_id][-1].new_balance if self.events[wallet_id] else ZERO
        assert last is not None
        return last

    def _arrive(self) -> None:
        """Let a request arrive, or let the answer to a decided request arrive."""
        sending = self.draw.choice(self._under_way)
        operation = sending.request.operation
        stored = self.books.stored.get((operation.wallet_id, operation.key))
        if stored is None or stored.status is None or stored.response is None or not sending.has_arrived:
            sending.has_arrived = True
            return
        self._under_way.remove(sending)
        self._uncertain.discard(operation.key)
        is_replayed = self._decided_by[operation.key] != (id(sending), len(sending.tries))
        timing = Timing(URL, sending.try_sent_at_seconds, self._seconds)
        tries = (*sending.tries, ServiceAnswer(stored.status, stored.response, is_replayed=is_replayed, timing=timing))
        self._exchanges.append(TriedRequest(sending.request, tries, sending.sent_at_seconds, self._seconds))

    def _lose(self) -> None:
        """End an attempt without an outcome, whether or not it had an effect, and begin the next one."""
        sending = self.draw.choice(self._under_way)
        key, timing = sending.request.operation.key, Timing(URL, sending.try_sent_at_seconds, self._seconds)
        ends: list[ServiceAnswer | NoAnswer] = [
            NoAnswer("connection lost", timing),
            ServiceAnswer(503, NOT_NOW, timing=timing),
        ]
        has_arrived = any(each.has_arrived for each in self._under_way if each.request.operation.key == key)
        if not has_arrived and key not in self._uncertain:
            ends.append(ServiceAnswer(503, NOT_EXECUTED, timing=timing))
        end = self.draw.choice(ends)
        if isinstance(end, ServiceAnswer) and end.body == NOT_NOW:
            self._uncertain.add(key)
        sending.tries.append(end)
        sending.has_arrived = False
        self._seconds += 1.0
        sending.try_sent_at_seconds = self._seconds

    def _decide_batch(self) -> None:
        arrived = [sending for sending in self._under_way if sending.has_arrived]
        self._seq += self.draw.randint(1, 3)
        self._ordinal = 0
        for sending in self.draw.sample(arrived, min(len(arrived), self.draw.randint(1, BATCH_MAX))):
            operation = sending.request.operation
            self._decided_by.setdefault(operation.key, (id(sending), len(sending.tries)))
            self._decide(operation)
        self.sums.append(self._sum())

    def _decide(self, operation: Operation) -> None:
        stored = self.books.stored.get((operation.wallet_id, operation.key))
        if stored is None:
            refusal = self._refuse(operation)
            if refusal is not None:
                self._store(operation, *refusal)
            elif operation.kind is OperationKind.TRANSFER:
                self._transfer(operation)
            else:
                self._move(operation)
        elif stored.status is None:
            self._go_on(operation)

    def _refuse(self, operation: Operation) -> tuple[str, str] | None:
        wallet_id, amount = operation.wallet_id, operation.amount
        if operation.kind is OperationKind.DEPOSIT:
            return None
        if not self.events[wallet_id]:
            return "wallet_not_found", f"Wallet {wallet_id} does not exist. Deposit into it first."
        if self.balance(wallet_id) < amount:
            has = self.balance(wallet_id)
            return "insufficient_funds", f"Wallet {wallet_id} holds {has:.4f}, which is less than the {amount:.4f}."
        if self._is_too_much(operation) and not self.is_stepwise:
            return "balance_limit_exceeded", f"{amount:.4f} more would take it over its limit."
        return None

    def _move(self, operation: Operation) -> None:
        wallet_id, is_deposit = operation.wallet_id, operation.kind is OperationKind.DEPOSIT
        created = self._create(operation, wallet_id)
        self._append(operation, wallet_id, "FundsDeposited" if is_deposit else "FundsWithdrawn")
        self._store(operation, walletId=wallet_id, balance=f"{self.balance(wallet_id):.4f}", created=created)

    def _transfer(self, operation: Operation) -> None:
        self._append(operation, operation.wallet_id, "TransferInitiated")
        self._append(operation, operation.wallet_id, "TransferDebited")
        self.books.stored[operation.wallet_id, operation.key] = Stored(None, None, self._seq)
        if not self.is_stepwise:
            self._go_on(operation)
            self._go_on(operation)

    def _go_on(self, operation: Operation) -> None:
        """Execute the next step of a transfer: the credit, or the end that follows from it."""
        receiver = operation.to_wallet_id
        assert receiver is not None
        credited = [event for event in self.events[receiver] if event.request_id == operation.key and event.moved]
        if credited:
            self._append(operation, operation.wallet_id, "TransferCompleted")
            self._store(
                operation,
                transferId=f"transfer of {operation.key}",
                fromWalletId=operation.wallet_id,
                toWalletId=receiver,
                amount=f"{operation.amount:.4f}",
                status="completed",
                fromBalance=f"{self.balance(operation.wallet_id):.4f}",
                toBalance=f"{credited[0].new_balance:.4f}",
            )
        elif self._is_too_much(operation):
            self._append(operation, operation.wallet_id, "TransferCompensated")
            self._append(operation, operation.wallet_id, "TransferFailed")
            self._store(operation, "transfer_failed", "The transfer was taken back and the money returned.")
        else:
            self._create(operation, receiver)
            self._append(operation, receiver, "TransferCredited")

    def _is_too_much(self, operation: Operation) -> bool:
        receiver = operation.to_wallet_id
        return receiver is not None and self.balance(receiver) + operation.amount > BALANCE_MAX

    def _create(self, operation: Operation, wallet_id: WalletId) -> bool:
        if self.events[wallet_id]:
            return False
        self._append(operation, wallet_id, "WalletCreated")
        return True

    def _append(self, operation: Operation, wallet_id: WalletId, event_type: str) -> None:
        moved = ZERO if event_type == "WalletCreated" else SIGNS.get(event_type, 0) * operation.amount
        event = ShownEvent(
            event_id=f"event-{len(self.books.places) + 1}",
            type=event_type,
            occurred_at=f"2026-01-01T00:00:00.{len(self.books.places):06}Z",
            moved=moved,
            new_balance=self.balance(wallet_id) + moved,
            request_id=operation.key,
            transfer_id=f"transfer of {operation.key}" if event_type.startswith("Transfer") else None,
        )
        self.books.places[event.event_id] = (self._seq, self._ordinal)
        self._ordinal += 1
        self.events[wallet_id].append(event)

    def _store(self, operation: Operation, code: str | None = None, detail: str = "", **answered: Any) -> None:
        statuses = {None: 201, "wallet_not_found": 404, "transfer_failed": 409}
        status = statuses.get(code, 400)
        fields = answered if code is None else {"status": status, "detail": detail, "code": code}
        response = msgspec.json.encode({**fields, "requestId": operation.key})
        self.books.stored[operation.wallet_id, Key(operation.key)] = Stored(status, response, self._seq)

    def _totals(self, wallet_id: WalletId) -> ExpectedTotals:
        def total(*event_types: str) -> Decimal:
            return sum((event.moved for event in self.events[wallet_id] if event.type in event_types), ZERO)

        out = -total("TransferDebited", "TransferCompensated")
        return ExpectedTotals(total("FundsDeposited"), -total("FundsWithdrawn"), out, total("TransferCredited"))

    def _sum(self) -> Decimal:
        """Returns balances and money in flight, less deposits, plus withdrawals, as the real books are summed."""
        moved = sum((event.moved for events in self.events.values() for event in events), ZERO)
        return sum(map(self.balance, list(self.events)), ZERO) - moved
