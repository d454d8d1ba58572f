"""I8: compares the worker's statistics with the events that its inbox contains.

Which alerts must exist depends on the fraud settings at the time, so the rules are not evaluated again. Each alert must
belong to a processed event, and a wallet's reason must be that of its earliest alert.
"""

from typing import Any

from wallet.domain.analytics import Activity, WalletTotals, merge, totals_of_activity
from wallet.domain.events import EVENT_TYPES
from wallet.domain.money import format_money
from wallet.integrity.findings import Check, Finding, Observer
from wallet.integrity.snapshot import SQL, Snapshot


async def prove_projections(snapshot: Snapshot, observer: Observer) -> list[Finding]:
    """Fold the amounts that the server summed by wallet and type, and compare wallet by wallet."""
    proof = _Proof()
    async for rows in snapshot.stream(SQL.processed_activity):
        for row in rows:
            proof.take(row)
        observer.advance(len(rows))
    proof.finish()
    alert = await snapshot.row(SQL.alerts_without_events)
    if alert is not None:
        proof.finding.add_fault(
            "fraud_alerts",
            f"wallet {alert['wallet_id']}, rule {alert['rule']}, event {alert['event_id']}",
            expected="an event that was processed",
            found="none",
            count=alert["fault_count"],
        )
    return [proof.finding]


class _Proof:
    def __init__(self) -> None:
        self.finding = Finding(Check.PROJECTIONS, "wallet")
        self._row: Any = None
        self._totals: WalletTotals | None = None

    def take(self, row: Any) -> None:
        """Add the next row, in the order of wallets."""
        if self._row is not None and (row["bucket"], row["wallet_id"]) != (self._row["bucket"], self._row["wallet_id"]):
            self.finish()
            self._totals = None
        self._row = row
        # A type that this program does not know is a fault of the versions (I3), not of the statistics.
        if row["type"] in EVENT_TYPES:
            activity = Activity(row["wallet_id"], row["type"], row["is_receiver"], row["amount"], row["occurred_at"])
            added = totals_of_activity(activity)
            self._totals = added if self._totals is None else merge(self._totals, added)

    def finish(self) -> None:
        """Compare the wallet's totals with its row."""
        row, totals = self._row, self._totals
        if row is None:
            return
        self.finding.checked_count += 1
        found = None
        if row["has_stats"]:
            found = WalletTotals(
                row["total_deposited"],
                row["total_withdrawn"],
                row["total_transferred_out"],
                row["total_transferred_in"],
                row["last_activity_at"],
            )
        if found != totals:
            self._add_fault(_shown(totals), _shown(found))
        elif row["suspicious_reason"] != row["earliest_reason"]:
            self._add_fault(f"suspicious_reason {row['earliest_reason']}", f"{row['suspicious_reason']}")

    def _add_fault(self, expected: str, found: str) -> None:
        self.finding.add_fault("wallet_stats", f"wallet {self._row['wallet_id']}", expected=expected, found=found)


def _shown(totals: WalletTotals | None) -> str:
    if totals is None:
        return "no row"
    return (
        f"deposited {format_money(totals.deposited)}, withdrawn {format_money(totals.withdrawn)}, "
        f"transferred out {format_money(totals.transferred_out)} and in {format_money(totals.transferred_in)}, "
        f"last activity {totals.last_activity_at}"
    )
