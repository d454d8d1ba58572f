"""The two ends of the checks: the evidence they are given, and what they find."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from wallet.stress.exchanges import Exchange
from wallet.stress.histories import Shown
from wallet.stress.operations import WalletId
from wallet.stress.outcomes import Totals


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of a run, filled while it is read. Why a wallet can't be read stands in `unreadable`."""

    wallet_ids: Sequence[WalletId]
    exchanges: Sequence[Exchange]
    shown: dict[WalletId, Shown] = field(default_factory=dict)
    totals: dict[WalletId, Totals] = field(default_factory=dict)
    unreadable: dict[WalletId, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """One promise: what was looked at, and the faults found, the first one first."""

    promise: str
    seen: str
    faults: tuple[str, ...] = ()
    is_checked: bool = True


def check_of(promise: str, seen: str, faults: Iterable[str | None]) -> Check:
    """A check; None among the faults is a thing that was looked at and found right."""
    return Check(promise, seen, tuple(fault for fault in faults if fault is not None))


def not_checked(promise: str) -> Check:
    """A promise of which nothing can be said."""
    return Check(promise, "not checked: not every wallet can be read", is_checked=False)


def count_of(number: int, one: str, many: str = "") -> str:
    """A number and what it counts: `1 key`, `1,204 keys`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
