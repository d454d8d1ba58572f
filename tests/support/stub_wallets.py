"""Wallets in memory that are correct, or have one chosen fault: the stress tool must detect the fault.

Money is decimal and keys are stored. In the modes with a fault, the fault occurs from time to time.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, auto, unique
from typing import Any

NOW_AND_THEN = 8


@unique
class Mode(Enum):
    """How the service behaves."""

    HONEST = auto()
    REFERENCE_DIALECT = auto()
    """Numbers instead of strings, a first deposit in one event, keys on few events, coarse times, no Link header."""
    UNSURE = auto()
    """Answers 503, or takes effect and then drops the connection."""
    LATE_WORKER = auto()
    """Returns zero totals until they were requested several times."""
    RESPELLS_REPLAYS = auto()
    """Replays have different bytes with the same meaning."""
    LOSES_UPDATES = auto()
    LOSES_TRANSFERS = auto()
    APPLIES_TWICE = auto()
    REPLAYS_OTHERWISE = auto()
    OVERDRAWS = auto()
    REFUSES_AND_TAKES = auto()
    MISCOUNTS = auto()
    FORGETS_EVENTS = auto()
    FAILS = auto()
    """Answers 500 instead of executing the command, also for retries."""
    DIES = auto()
    """After some hundred requests every connection is dropped without an answer."""


@dataclass
class StubWallets:
    """The state of the service, and the rules that change it."""

    mode: Mode
    balances: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    events: defaultdict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    totals: defaultdict[str, defaultdict[str, Decimal]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Decimal))
    )
    outcomes: dict[tuple[str, str], tuple[int, dict[str, Any]]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def execute(self, wallet_id: str, kind: str, body: dict[str, Any]) -> tuple[int, dict[str, Any], bool]:
        """Executes a command. Returns the status, the answer, and whether it is a replay."""
        key = body["requestId"]
        stored = self.outcomes.get((wallet_id, key))
        if stored is None:
            stored = self.outcomes[wallet_id, key] = self._decide(wallet_id, kind, body)
            return *stored, False
        if self.mode is Mode.APPLIES_TWICE and stored[0] == 201:
            self._decide(wallet_id, kind, body)
        if self.mode is Mode.REPLAYS_OTHERWISE and "balance" in stored[1]:
            stored = stored[0], stored[1] | {"balance": str(self.balances[wallet_id] + 1)}
        return *stored, True

    def _decide(self, wallet_id: str, kind: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        amount, key = Decimal(body["amount"]), body["requestId"]
        if kind == "deposit":
            created = not self.events[wallet_id]
            self._deposit(wallet_id, amount, key)
            return 201, self._moved(wallet_id, key, created=created)
        if not self.events[wallet_id]:
            return 404, {"message": "wallet not found"}
        if self.balances[wallet_id] < amount and self.mode is not Mode.OVERDRAWS:
            if self.mode is Mode.REFUSES_AND_TAKES and self._now_and_then("refusals"):
                self._record(wallet_id, "FundsWithdrawn", -self.balances[wallet_id], key)
            return 400, {"message": "insufficient funds"}
        if kind == "withdraw":
            self._record(wallet_id, "FundsWithdrawn", -amount, key)
            return 201, self._moved(wallet_id, key, created=False)
        return 201, self._transfer(wallet_id, body["toWalletId"], amount, key)

    def _deposit(self, wallet_id: str, amount: Decimal, key: str) -> None:
        if self.mode is Mode.LOSES_UPDATES and len(self.events[wallet_id]) > 2 and self._now_and_then("deposits"):
            # As if two deposits had read the same balance: the second write overwrites the first.
            self.balances[wallet_id] = self.events[wallet_id][-2]["balance"]
        is_first = not self.events[wallet_id]
        if is_first and self.mode is not Mode.REFERENCE_DIALECT:
            self._record(wallet_id, "WalletCreated", Decimal(), key)
        name = "WalletCreated" if is_first and self.mode is Mode.REFERENCE_DIALECT else "FundsDeposited"
        self._record(wallet_id, name, amount, key)

    def _transfer(self, wallet_id: str, receiver: str, amount: Decimal, key: str) -> dict[str, Any]:
        self.counts["ids"] += 1
        transfer_id = f"transfer-{self.counts['ids']}"
        self._record(wallet_id, "TransferInitiated", Decimal(), key, transfer_id)
        self._record(wallet_id, "TransferDebited", -amount, key, transfer_id)
        if not (self.mode is Mode.LOSES_TRANSFERS and self._now_and_then("transfers")):
            self._record(receiver, "TransferCredited", amount, key, transfer_id)
        return {
            "transferId": transfer_id,
            "fromWalletId": wallet_id,
            "toWalletId": receiver,
            "amount": float(amount),
            "status": "completed",
            "requestId": key,
            "fromBalance": f"{self.balances[wallet_id]:.4f}",
            "toBalance": f"{self.balances[receiver]:.4f}",
        }

    def _record(self, wallet_id: str, name: str, moved: Decimal, key: str, transfer_id: str | None = None) -> None:
        self.counts["ids"] += 1
        self.balances[wallet_id] += moved
        total = {
            "FundsDeposited": "totalDeposited",
            "FundsWithdrawn": "totalWithdrawn",
            "TransferDebited": "totalTransferredOut",
            "TransferCredited": "totalTransferredIn",
            "WalletCreated": "totalDeposited",
        }.get(name)
        if total is not None:
            times = 2 if self.mode is Mode.MISCOUNTS and self._now_and_then("counted") else 1
            self.totals[wallet_id][total] += times * abs(moved)
        if self.mode is Mode.FORGETS_EVENTS and self._now_and_then("written"):
            return
        number = self.counts["ids"]
        event = {"id": f"event-{number:06}", "type": name, "key": key, "transfer_id": transfer_id, "number": number}
        self.events[wallet_id].append({**event, "moved": moved, "balance": self.balances[wallet_id]})

    def _moved(self, wallet_id: str, key: str, *, created: bool) -> dict[str, Any]:
        balance = f"{self.balances[wallet_id]:.4f}"
        return {"walletId": wallet_id, "balance": balance, "requestId": key, "created": created}

    def _now_and_then(self, what: str) -> bool:
        self.counts[what] += 1
        return self.counts[what] % NOW_AND_THEN == 0
