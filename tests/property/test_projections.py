"""Statistics and alerts are those of one fold of the log, however its events arrive."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from tests.support.event_log import Log
from wallet.domain.analytics import Activity, LoggedEvent, WalletTotals, fold, merge, totals_of_activity
from wallet.domain.identifiers import EventId, WalletId
from wallet.fraud.rules import Alert, FraudRules, alerts_of, is_watched, judge

RULES = FraudRules(Decimal(50), 3, timedelta(seconds=5))
WALLETS = ("a", "b", "c")

steps = st.lists(
    st.tuples(
        st.sampled_from(["deposit", "withdraw", "transfer"]),
        st.permutations(WALLETS),
        st.integers(1, 100),
        st.integers(0, 3),
    ),
    max_size=30,
)


def log_of(steps: Iterable[tuple[str, Sequence[str], int, int]]) -> list[LoggedEvent]:
    log, seconds = Log(), 0
    for wallet_id in WALLETS:
        log.deposit(wallet_id)
    for kind, (wallet_id, other_id, _), amount, later in steps:
        seconds += later
        match kind:
            case "deposit":
                log.deposit(wallet_id, amount, at=seconds)
            case "withdraw":
                log.withdraw(wallet_id, amount, at=seconds)
            case _:
                log.transfer(wallet_id, other_id, amount, at=seconds)
    return [row.logged() for row in log.pending]


class Projector:
    """The worker's way, in memory: an inbox, totals by group, each new withdrawal judged by the whole log."""

    def __init__(self, log: Sequence[LoggedEvent]) -> None:
        self._log = log
        self._inbox: set[EventId] = set()
        self.totals: dict[WalletId, WalletTotals] = {}
        self.alerts: list[Alert] = []

    def take(self, group: Iterable[LoggedEvent]) -> None:
        fresh = {event.event_id: event for event in group if event.event_id not in self._inbox}.values()
        self._inbox.update(event.event_id for event in fresh)
        for wallet_id, added in fold(fresh).items():
            known = self.totals.get(wallet_id)
            self.totals[wallet_id] = added if known is None else merge(known, added)
        for event in filter(is_watched, fresh):
            self.alerts += judge(event, self._nth_latest_at(event), RULES)

    def _nth_latest_at(self, event: LoggedEvent) -> datetime | None:
        times = sorted(
            (
                other.occurred_at
                for other in self._log
                if is_watched(other) and other.wallet_id == event.wallet_id and other.occurred_at <= event.occurred_at
            ),
            reverse=True,
        )
        return times[RULES.rapid_withdrawal_count - 1] if len(times) >= RULES.rapid_withdrawal_count else None


@given(steps, st.data())
def test_any_order_grouping_and_duplication_gives_what_one_fold_gives(
    steps: list[tuple[str, Sequence[str], int, int]], data: st.DataObject
) -> None:
    log = log_of(steps)
    duplicates = data.draw(st.lists(st.sampled_from(log), max_size=20))
    arriving = data.draw(st.permutations([*log, *duplicates]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(arriving)), max_size=8)))
    projector = Projector(log)
    for start, end in zip([0, *cuts], [*cuts, len(arriving)], strict=True):
        projector.take(arriving[start:end])
    assert projector.totals == fold(log)
    assert set(projector.alerts) == alerts_of(log, RULES)
    assert len(projector.alerts) == len(set(projector.alerts)), "an event raised the same alert twice"


@given(steps)
def test_sums_by_wallet_and_type_give_what_the_events_give_one_by_one(
    steps: list[tuple[str, Sequence[str], int, int]],
) -> None:
    log = log_of(steps)
    summed: dict[tuple[WalletId, str, bool], tuple[Decimal, datetime]] = {}
    for event in log:
        concerned = [(event.wallet_id, False)]
        if event.type == "TransferCompleted" and event.to_wallet_id is not None:
            concerned.append((event.to_wallet_id, True))
        for wallet_id, is_receiver in concerned:
            key = wallet_id, event.type, is_receiver
            amount, latest = summed.get(key, (Decimal(0), event.occurred_at))
            summed[key] = amount + event.amount, max(latest, event.occurred_at)
    totals: dict[WalletId, WalletTotals] = {}
    for (wallet_id, event_type, is_receiver), (amount, latest) in summed.items():
        added = totals_of_activity(Activity(wallet_id, event_type, is_receiver, amount, latest))
        totals[wallet_id] = merge(totals[wallet_id], added) if wallet_id in totals else added
    assert totals == fold(log)
