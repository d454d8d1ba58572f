"""I2, I3, I4: reads every event in its wallet's order, folds it as the write path did, and compares the result with the
wallet's row.

Two balances are tracked. One follows the balances that the events state, so that a single wrong event does not make
every later event wrong. The other folds the amounts alone; the wallet's row must equal it.
"""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

from wallet.domain.events import EVENT_TYPES, WalletCreated
from wallet.domain.money import ZERO, format_money
from wallet.domain.wallet import evolve_balance
from wallet.integrity.findings import Check, Finding, Observer
from wallet.integrity.snapshot import ALL_BUCKETS, SQL, Buckets, Snapshot


async def prove_histories(snapshot: Snapshot, observer: Observer, buckets: Buckets = ALL_BUCKETS) -> list[Finding]:
    """Read all events, wallet by wallet: the server sorts once, and one row is processed at a time here."""
    walk = HistoryWalk()
    async for rows in snapshot.stream(SQL.histories, *buckets):
        walk.take(rows)
        observer.advance(len(rows))
    walk.finish()
    return walk.findings


class HistoryWalk:
    """Checks the events of one wallet after the other."""

    def __init__(self) -> None:
        self.balances = Finding(Check.BALANCES, "wallet")
        self.versions = Finding(Check.VERSIONS, "event")
        self.overdrafts = Finding(Check.OVERDRAFTS, "balance")
        self._key: tuple[int, str] | None = None
        self._row: Any = None
        self._begin()

    def _begin(self) -> None:
        self._version = 0
        self._balance = ZERO
        self._folded = ZERO
        self._currency: str | None = None
        self._occurred_at: datetime | None = None

    @property
    def findings(self) -> list[Finding]:
        """Returns the findings so far."""
        return [self.balances, self.versions, self.overdrafts]

    def go_to(self, row: Any, *, version: int, balance: Decimal, occurred_at: datetime | None) -> None:
        """Continue after an event of the row's wallet without checking the events before it; the row has the form that
        `take` reads.
        """
        if (row[0], row[1]) != self._key:
            self.finish()
            self._key = row[0], row[1]
            self._begin()
        self._row, self._currency = row, row[10]
        self._version, self._balance, self._folded, self._occurred_at = version, balance, balance, occurred_at

    def take(self, rows: Iterable[Any]) -> None:
        """Check the next rows, in the order of wallet and version."""
        for row in rows:
            bucket, wallet_id, version, event_type, amount, balance_after, occurred_at, currency, *_ = row
            if (bucket, wallet_id) != self._key:
                self.finish()
                self._key = bucket, wallet_id
                self._begin()
            self._row = row
            if version is not None:
                self._take_event(version, event_type, amount, balance_after)
                self._take_time(version, occurred_at)
                self._currency = currency or self._currency

    def _take_event(self, version: int, event_type: str, amount: Decimal, balance_after: Decimal) -> None:
        self.versions.looked_at += 1
        if event_type not in EVENT_TYPES or (EVENT_TYPES[event_type] is WalletCreated) != (version == 1):
            expected = "WalletCreated" if version == 1 else "an event type after the first that is known"
            self._add_event_fault(version, expected=expected, found=event_type)
        elif version != self._version + 1:
            self._add_event_fault(version, expected=f"version {self._version + 1}", found=f"version {version}")
            self._folded = evolve_balance(self._folded, event_type, amount)
        else:
            follows = evolve_balance(self._balance, event_type, amount)
            same = self._folded is self._balance
            self._folded = follows if same else evolve_balance(self._folded, event_type, amount)
            if follows != balance_after:
                before = f"{format_money(self._balance)} {_sign(event_type)} {format_money(amount)}"
                self._add_event_fault(
                    version,
                    expected=f"balance_after {format_money(follows)} ({before}, as {event_type} has it)",
                    found=f"balance_after {format_money(balance_after)}",
                )
            elif same:
                balance_after = follows
        self._version, self._balance = version, balance_after
        if balance_after.is_signed():
            row = f"wallet {self._row[1]}, version {version}"
            self.overdrafts.add_fault("events", row, expected="0 or more", found=format_money(balance_after))

    def _take_time(self, version: int, occurred_at: datetime | None) -> None:
        last = self._occurred_at
        if occurred_at is None or (last is not None and occurred_at <= last):
            expected = "a time" if last is None else f"occurred_at after {last.isoformat()}"
            found = "none that exists" if occurred_at is None else f"occurred_at {occurred_at.isoformat()}"
            self._add_event_fault(version, expected=expected, found=found)
        self._occurred_at = occurred_at or last

    def finish(self) -> None:
        """Finish the current wallet: compare the result of its events with its row, which each event row contains."""
        if self._key is None:
            return
        *_, wallet_version, balance, currency, is_last_event_at = self._row
        self.balances.looked_at += 1
        if wallet_version is None:
            self._blame_wallet(expected=f"a row at version {self._version}", found="no row, though there are events")
            return
        self.overdrafts.looked_at += 1 + self._version
        if balance.is_signed():
            row = f"wallet {self._row[1]}"
            self.overdrafts.add_fault("wallets", row, expected="0 or more", found=format_money(balance))
        if self._version == 0:
            self._blame_wallet(expected="no row, as it has no event", found=f"a row at version {wallet_version}")
        elif wallet_version != self._version:
            self._blame_wallet(
                expected=f"version {self._version}, that of its last event", found=f"version {wallet_version}"
            )
        elif not balance == self._balance == self._folded:
            self._blame_wallet(
                expected=f"balance {format_money(self._folded)}, the fold of its {self._version} events",
                found=f"balance {format_money(balance)}, and {format_money(self._balance)} at its last event",
            )
        elif not is_last_event_at or currency != self._currency:
            self._blame_wallet(
                expected=f"{self._currency}, last_event_at {self._occurred_at}",
                found=f"{currency}, or another last_event_at",
            )

    def _add_event_fault(self, version: int, *, expected: str, found: str) -> None:
        self.versions.add_fault("events", f"wallet {self._row[1]}, version {version}", expected=expected, found=found)

    def _blame_wallet(self, *, expected: str, found: str) -> None:
        self.balances.add_fault("wallets", f"wallet {self._row[1]}", expected=expected, found=found)


def _sign(event_type: str) -> str:
    return {1: "+", 0: "+ 0 ×", -1: "−"}[EVENT_TYPES[event_type].effect.balance]
