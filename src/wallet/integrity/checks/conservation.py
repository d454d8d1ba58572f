"""I1: no money is created or lost. Also counts the events, so that the longer passes know their length in advance."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from wallet.domain.events import EVENT_TYPES, Effect
from wallet.domain.money import ZERO, add, format_money, times
from wallet.integrity.findings import Check, Finding, counted
from wallet.integrity.snapshot import SQL, Snapshot


async def prove_conservation(snapshot: Snapshot) -> list[Finding]:
    """Compare the sum over all wallets with the sum over all events."""
    return [(await read_totals(snapshot)).judge()]


@dataclass(frozen=True, slots=True)
class MoneyTotals:
    """The two sums: of the events, by their type, and of the balances."""

    amounts: dict[str, Decimal]
    event_count: int
    balances: Decimal
    wallet_count: int

    def judge(self) -> Finding:
        """Returns the result of the comparison."""
        finding = Finding(Check.CONSERVATION, "event", checked_count=self.event_count)

        in_flight = self._total(lambda effect: effect.in_flight)
        outside = self._total(lambda effect: effect.outside)
        difference = add(add(self.balances, in_flight), outside)
        if difference:
            finding.add_fault(
                "wallets, events",
                f"the sums over {counted(self.wallet_count, 'wallet')} and {counted(self.event_count, 'event')}",
                expected="balances + money in flight = deposits − withdrawals",
                found=f"balances + money in flight are {too_much_or_little(difference)}",
            )
        return finding

    def _total(self, part: Callable[[Effect], int]) -> Decimal:
        """Returns the sum over all events of one part of their effects."""
        total = ZERO
        for event_type, amount in self.amounts.items():
            if event_type in EVENT_TYPES:
                total = add(total, times(amount, part(EVENT_TYPES[event_type].effect)))
        return total


def too_much_or_little(difference: Decimal) -> str:
    """Returns a difference in words. It states no total: `GET /integrity` reports the totals of one moment, and they
    change.
    """
    return f"{format_money(abs(difference))} too {'little' if difference.is_signed() else 'much'}"


async def read_totals(snapshot: Snapshot) -> MoneyTotals:
    """Returns both sums."""
    rows = await snapshot.rows(SQL.sums_by_type)
    wallets = await snapshot.row(SQL.sum_of_balances)
    assert wallets is not None
    return MoneyTotals(
        {row["type"]: row["amount"] for row in rows},
        sum(row["event_count"] for row in rows),
        wallets["balance"],
        wallets["wallet_count"],
    )
