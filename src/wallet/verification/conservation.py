"""I1: no money is made or lost; also counts the events, so that the longer readings know how long they will be."""

from decimal import Decimal

from wallet.domain.money import ZERO, add, format_money, subtract
from wallet.verification.checks import Check, Finding, counted
from wallet.verification.snapshot import SQL, Snapshot


async def prove_conservation(snapshot: Snapshot) -> list[Finding]:
    """Compare two sums over all wallets and all events."""
    finding = Finding(Check.CONSERVATION, "event")
    sums: dict[str, Decimal] = {}
    for row in await snapshot.rows(SQL.sums_by_type):
        sums[row["type"]] = row["amount"]
        finding.looked_at += row["event_count"]
    wallets = await snapshot.row(SQL.sum_of_balances)
    assert wallets is not None

    def total(event_type: str) -> Decimal:
        return sums.get(event_type, ZERO)

    in_flight = subtract(total("TransferDebited"), add(total("TransferCredited"), total("TransferCompensated")))
    came_in = subtract(total("FundsDeposited"), total("FundsWithdrawn"))
    difference = subtract(add(wallets["balance"], in_flight), came_in)
    if difference:
        too = f"{format_money(abs(difference))} too {'little' if difference.is_signed() else 'much'}"
        finding.blame(
            "wallets, events",
            f"the sums over {counted(wallets['wallet_count'], 'wallet')} and {counted(finding.looked_at, 'event')}",
            expected=f"deposits − withdrawals = {format_money(came_in)}",
            found=f"balances {format_money(wallets['balance'])} + in flight {format_money(in_flight)}: {too}",
        )
    return [finding]
