"""I2, I3, I4: reads every event in its wallet's order, folds it as the write path did, and compares the result with the
wallet's row.

Two states are tracked. One follows the balances that the events state, so that a single wrong event does not make
every later event wrong. The other is the fold of the events by `evolve_by_columns`; the wallet's row must equal it.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from wallet.domain.events import EVENT_TYPES, WalletCreated
from wallet.domain.identifiers import WalletId
from wallet.domain.money import ZERO, format_money
from wallet.domain.wallet import Wallet, evolve_balance, evolve_by_columns, initial
from wallet.integrity.findings import Check, Finding, Observer
from wallet.integrity.snapshot import ALL_BUCKETS, EVOLVED, SQL, Buckets, Snapshot

_KNOWN_AFTER_ANY_EVENT = {"last_event_at"}
"""The columns that do not depend on the events before."""


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
        self._begin("")

    def _begin(self, wallet_id: str) -> None:
        self._version = 0
        self._balance = ZERO
        self._folded = initial(WalletId(wallet_id))
        self._compared: Sequence[str] = EVOLVED

    @property
    def findings(self) -> list[Finding]:
        """Returns the findings so far."""
        return [self.balances, self.versions, self.overdrafts]

    def go_to(self, row: Any, *, version: int, balance: Decimal, occurred_at: datetime | None) -> None:
        """Continue after an event of the row's wallet without checking the events before it; the row has the form that
        `take` reads.

        What only these events determine is not compared at the end. A check of all events does that.
        """
        self._go_to_wallet(row)
        self._version, self._balance = version, balance
        self._folded = msgspec.structs.replace(
            self._folded, balance=balance, version=version, last_event_at=occurred_at
        )
        if version > 0:
            self._compared = [name for name in EVOLVED if name in _KNOWN_AFTER_ANY_EVENT]

    def take(self, rows: Iterable[Any]) -> None:
        """Check the next rows, in the order of wallet and version."""
        for row in rows:
            _, _, version, event_type, amount, balance_after, occurred_at, currency, *_ = row
            self._go_to_wallet(row)
            if version is not None:
                last = self._folded.last_event_at
                self._folded = self._take_event(
                    version, event_type, amount, balance_after, occurred_at or last, currency
                )
                self._take_time(version, occurred_at, last)

    def _go_to_wallet(self, row: Any) -> None:
        if (row[0], row[1]) != self._key:
            self.finish()
            self._key = row[0], row[1]
            self._begin(row[1])
        self._row = row

    def _take_event(
        self,
        version: int,
        event_type: str,
        amount: Decimal,
        balance_after: Decimal,
        occurred_at: datetime | None,
        currency: str | None,
    ) -> Wallet:
        """Check an event, and return the fold that includes it; an event of a wrong type changes only its time."""
        self.versions.checked_count += 1
        folded = self._folded
        if event_type not in EVENT_TYPES or (EVENT_TYPES[event_type] is WalletCreated) != (version == 1):
            expected = WalletCreated.__name__ if version == 1 else "an event type after the first that is known"
            self._add_event_fault(version, expected=expected, found=event_type)
            after = msgspec.structs.replace(folded, last_event_at=occurred_at)
        else:
            after = evolve_by_columns(folded, event_type, amount, occurred_at, currency)
            if version != self._version + 1:
                self._add_event_fault(version, expected=f"version {self._version + 1}", found=f"version {version}")
            else:
                # The two states nearly always have the same balance, which is then added up only once.
                same = folded.balance is self._balance
                follows = after.balance if same else evolve_balance(self._balance, event_type, amount)
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
        return after

    def _take_time(self, version: int, occurred_at: datetime | None, last: datetime | None) -> None:
        if occurred_at is None or (last is not None and occurred_at <= last):
            expected = "a time" if last is None else f"occurred_at after {last.isoformat()}"
            found = "none that exists" if occurred_at is None else f"occurred_at {occurred_at.isoformat()}"
            self._add_event_fault(version, expected=expected, found=found)

    def finish(self) -> None:
        """Finish the current wallet: compare the result of its events with its row, which each event row contains."""
        if self._key is None:
            return
        wallet_version, balance = self._row[8:10]
        self.balances.checked_count += 1
        if wallet_version is None:
            self._blame_wallet(expected=f"a row at version {self._version}", found="no row, though there are events")
            return
        self.overdrafts.checked_count += 1 + self._version
        if balance.is_signed():
            row = f"wallet {self._row[1]}"
            self.overdrafts.add_fault("wallets", row, expected="0 or more", found=format_money(balance))
        if self._version == 0:
            self._blame_wallet(expected="no row, as it has no event", found=f"a row at version {wallet_version}")
        elif wallet_version != self._version:
            self._blame_wallet(
                expected=f"version {self._version}, that of its last event", found=f"version {wallet_version}"
            )
        elif not balance == self._balance == self._folded.balance:
            self._blame_wallet(
                expected=f"balance {format_money(self._folded.balance)}, the fold of its {self._version} events",
                found=f"balance {format_money(balance)}, and {format_money(self._balance)} at its last event",
            )
        else:
            self._compare_columns(dict(zip(EVOLVED, self._row[10:], strict=True)))

    def _compare_columns(self, stored: Mapping[str, str | None]) -> None:
        """Compare the wallet's columns, as texts, with the fold of its events."""
        for name in self._compared:
            expected = getattr(self._folded, name)
            if not _is_text_of(stored[name], expected):
                self._blame_wallet(expected=f"{name} {expected}", found=f"{name} {stored[name]}")
                return

    def _add_event_fault(self, version: int, *, expected: str, found: str) -> None:
        self.versions.add_fault("events", f"wallet {self._row[1]}, version {version}", expected=expected, found=found)

    def _blame_wallet(self, *, expected: str, found: str) -> None:
        self.balances.add_fault("wallets", f"wallet {self._row[1]}", expected=expected, found=found)


def _is_text_of(text: str | None, value: object) -> bool:
    """Returns whether PostgreSQL's text of a column means this value."""
    if text is None or value is None:
        return text is value
    try:
        match value:
            case datetime():
                return datetime.fromisoformat(text) == value
            case Decimal():
                return Decimal(text) == value
            case bool():
                return text == str(value).lower()
            case _:
                return text == str(value)
    except ValueError:
        return False  # For example the time infinity, or one of a year after 9999.


def _sign(event_type: str) -> str:
    return {1: "+", 0: "+ 0 ×", -1: "−"}[EVENT_TYPES[event_type].effect.balance]
