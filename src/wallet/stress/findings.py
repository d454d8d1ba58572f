"""The checks of a run: turn the evidence (the answers, and what the service shows) into a verdict. Pure functions.

Every outcome is known in the end, so every balance and total follows from the answers alone, without assumptions about
the order in which the service executed them. For a key whose answer was lost, the histories decide.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from wallet.stress.client import decode_json
from wallet.stress.exchanges import NoAnswer, ServiceAnswer, TriedRequest
from wallet.stress.histories import Found, Shown, find_effects, first_jump
from wallet.stress.operations import Key, OperationKind, WalletId
from wallet.stress.outcomes import (
    TOTAL_NAMES,
    ExpectedEffect,
    ExpectedTotals,
    KeyOutcome,
    Verdict,
    effects_of,
    outcomes_of,
    totals_of,
)

BODY_CHARACTERS_SHOWN: Final = 200
REDIRECTS: Final = range(300, 400)
NOTHING: Final = ExpectedTotals()
ONE_EFFECT: Final = "every key had one effect"
NO_JUMPS: Final = "balances never jump"
NO_NEGATIVES: Final = "no balance was negative"
EXACT: Final = "every balance is exact"
CONSERVED: Final = "money is conserved"
COUNTED: Final = "the worker's totals agree"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that is known about a run, filled in while it is read. `unreadable` contains why a wallet can't be
    read.
    """

    wallet_ids: Sequence[WalletId]
    exchanges: Sequence[TriedRequest]
    shown: dict[WalletId, Shown] = field(default_factory=dict)
    totals: dict[WalletId, ExpectedTotals] = field(default_factory=dict)
    unreadable: dict[WalletId, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunCheck:
    """One promise: what was checked, and the faults in the order in which they were found."""

    promise: str
    seen: str
    faults: tuple[str, ...] = ()
    is_checked: bool = True


def check_of(promise: str, seen: str, faults: Iterable[str | None]) -> RunCheck:
    """Returns a check; a None among the faults is an item that was checked and found right."""
    return RunCheck(promise, seen, tuple(fault for fault in faults if fault is not None))


def not_checked(promise: str) -> RunCheck:
    """Returns the check of a promise that could not be checked."""
    return RunCheck(promise, "not checked: not every wallet can be read", is_checked=False)


def count_of(number: int, one: str, many: str = "") -> str:
    """Returns a number and what it counts: `1 key`, `1,204 keys`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def check_run(evidence: Evidence) -> list[RunCheck]:
    """Returns all checks, each with its faults. The service's data is checked only if every wallet can be read."""
    outcomes = outcomes_of(evidence.exchanges)
    of_answers = [
        check_outcomes(evidence.exchanges, outcomes),
        check_server_errors(evidence.exchanges),
        check_replays(outcomes),
        _check_readable(evidence),
    ]
    if evidence.unreadable:
        promises = (ONE_EFFECT, NO_JUMPS, NO_NEGATIVES, EXACT, CONSERVED, COUNTED)
        return [*of_answers, *map(not_checked, promises)]
    shown = {wallet_id: evidence.shown[wallet_id] for wallet_id in evidence.wallet_ids}
    totals = {wallet_id: evidence.totals[wallet_id] for wallet_id in evidence.wallet_ids}
    found = find_effects(outcomes, shown)
    answer_lost = [key for key, outcome in outcomes.items() if outcome.verdict is Verdict.UNKNOWN and found.of(key)]
    expected = totals_of(outcomes, also=answer_lost)
    return [
        *of_answers,
        check_of(ONE_EFFECT, count_of(len(outcomes), "key"), _wrong_effects(outcomes, found)),
        check_of(
            NO_JUMPS,
            "each event's balance follows from the one before",
            (first_jump(wallet_id, wallet) for wallet_id, wallet in shown.items()),
        ),
        _check_negatives(shown),
        check_of(EXACT, "as computed from the answers", _wrong_balances(shown, expected)),
        _check_conservation(shown, expected),
        check_of(COUNTED, count_of(len(totals), "wallet"), _wrong_totals(totals, expected)),
    ]


def _check_readable(evidence: Evidence) -> RunCheck:
    count = sum(len(wallet.events) for wallet in evidence.shown.values())
    seen = f"{count_of(len(evidence.shown), 'wallet')}, {count_of(count, 'event')}"
    return check_of("every wallet can be read", seen, map(evidence.unreadable.get, evidence.wallet_ids))


def _wrong_effects(outcomes: Mapping[Key, KeyOutcome], found: Found) -> Iterator[str]:
    """Yields the faults of keys: a success must have its effect once, on each wallet it names; a refusal must have
    none.
    """
    for key, outcome in outcomes.items():
        verdict, right = _right_effects(outcome)
        actual = found.of(key)
        if actual not in right:
            yield (
                f"{key} ({outcome.operation}) {verdict}: the histories contain {_words(actual)}; "
                f"right is {_words(right[0])}"
            )
    yield from found.strays


def _right_effects(outcome: KeyOutcome) -> tuple[str, list[Counter[ExpectedEffect]]]:
    once = effects_of(outcome.operation)
    match outcome.verdict:
        case Verdict.SUCCEEDED:
            return "was answered as done", [once]
        case Verdict.REFUSED:
            return "was refused", [Counter()]
        case Verdict.UNKNOWN:
            return "was never answered", [once, Counter()]


def _check_negatives(shown: Mapping[WalletId, Shown]) -> RunCheck:
    def lowest(wallet: Shown) -> Decimal:
        return min([wallet.balance, *(event.new_balance for event in wallet.events if event.new_balance is not None)])

    lows = {wallet_id: lowest(wallet) for wallet_id, wallet in shown.items()}
    faults = (f"{wallet_id} had {low:.4f}" for wallet_id, low in lows.items() if low < 0)
    return check_of(NO_NEGATIVES, f"the lowest was {min(lows.values()):.4f}", faults)


def _wrong_balances(shown: Mapping[WalletId, Shown], expected: Mapping[WalletId, ExpectedTotals]) -> Iterator[str]:
    for wallet_id, wallet in shown.items():
        right = expected.get(wallet_id, NOTHING).balance
        if wallet.balance != right:
            off = wallet.balance - right
            yield f"{wallet_id} has {wallet.balance:.4f}, the answers add up to {right:.4f} ({off:+.4f})"


def _check_conservation(shown: Mapping[WalletId, Shown], expected: Mapping[WalletId, ExpectedTotals]) -> RunCheck:
    """Check that Σ balances = Σ deposits − Σ withdrawals."""
    deposited = sum((totals.total_deposited for totals in expected.values()), Decimal())
    withdrawn = sum((totals.total_withdrawn for totals in expected.values()), Decimal())
    balances = sum((wallet.balance for wallet in shown.values()), Decimal())
    sides = f"deposits {deposited:,.4f} − withdrawals {withdrawn:,.4f} {{}} balances {balances:,.4f}"
    off = balances - (deposited - withdrawn)
    what = "appeared" if off > 0 else "vanished"
    fault = f"{abs(off):,.4f} {what}: {sides.format('≠')}" if off else None
    return check_of(CONSERVED, sides.format("="), [fault])


def _wrong_totals(
    totals: Mapping[WalletId, ExpectedTotals], expected: Mapping[WalletId, ExpectedTotals]
) -> Iterator[str]:
    for wallet_id, counted in totals.items():
        right = expected.get(wallet_id, NOTHING)
        for name, ours in TOTAL_NAMES.items():
            is_total, should_be = getattr(counted, ours), getattr(right, ours)
            if is_total != should_be:
                yield f"{wallet_id} {name} is {is_total:.4f}, the answers add up to {should_be:.4f}"


def _words(effects: Counter[ExpectedEffect]) -> str:
    each = (f"{effect}{'' if count == 1 else f' {count} times'}" for effect, count in effects.items())
    return " and ".join(each) or "no effect"


def check_outcomes(exchanges: Sequence[TriedRequest], outcomes: Mapping[Key, KeyOutcome]) -> RunCheck:
    """Check that every request got a definite answer, and one that is possible for it."""
    verdicts = [outcome.verdict for outcome in outcomes.values()]
    done, refused = verdicts.count(Verdict.SUCCEEDED), verdicts.count(Verdict.REFUSED)
    return check_of(
        "every request was answered", f"{count_of(done, 'key')} done, {refused:,} refused", map(_unknown, exchanges)
    )


def check_server_errors(exchanges: Sequence[TriedRequest]) -> RunCheck:
    """Check that there was no 5xx. A 503 is allowed if the same key then got its outcome."""
    retried = sum(len(exchange.tries) - 1 for exchange in exchanges)
    return check_of("no server errors", count_of(retried, "retry", "retries"), _errors(exchanges))


def check_replays(outcomes: Mapping[Key, KeyOutcome]) -> RunCheck:
    """Check that a key that is sent again gets the same status and body.

    Bodies with different bytes are the same if they are equal as JSON. For a refusal only the status is compared,
    because a service may put the time in its errors.
    """
    replays = [(key, outcome.answers[0], again) for key, outcome in outcomes.items() for again in outcome.answers[1:]]
    same_bytes = sum(first.body == again.body for _, first, again in replays)
    seen = count_of(len(replays), "replay")
    if replays:
        others = len(replays) - same_bytes
        seen += ", byte for byte" if not others else f", {others:,} of them with different bytes but equal JSON"
    return check_of("replays are identical", seen, (_difference(*replay) for replay in replays))


def _unknown(exchange: TriedRequest) -> str | None:
    operation = exchange.request.operation
    last = exchange.tries[-1]
    tries = count_of(len(exchange.tries), "try", "tries")
    if isinstance(last, NoAnswer):
        return f"{operation.key} ({operation}) got no answer in {tries}: {last.reason}"
    if not last.is_definite:
        return f"{operation.key} ({operation}) was still answered {last.status} after {tries}"
    if last.status in REDIRECTS or (operation.kind is OperationKind.DEPOSIT and not last.is_success):
        return f"{operation.key} ({operation}) was answered {last.status}: {_shorten(last.body)}"
    return None


def _errors(exchanges: Iterable[TriedRequest]) -> Iterator[str]:
    for exchange in exchanges:
        operation = exchange.request.operation
        for attempt in exchange.tries:
            if isinstance(attempt, ServiceAnswer) and attempt.is_server_error:
                yield f"{operation.key} ({operation}) was answered {attempt.status}: {_shorten(attempt.body)}"


def _difference(key: Key, first: ServiceAnswer, again: ServiceAnswer) -> str | None:
    if first.status != again.status:
        return f"{key} was answered {first.status}, and {again.status} when it was sent again"
    if first.body == again.body or not first.is_success or _is_equal_json(first.body, again.body):
        return None
    return f"{key} was answered {_shorten(first.body)}, and {_shorten(again.body)} when it was sent again"


def _is_equal_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(decode_json(one) == decode_json(other))
    except ValueError:
        return False


def _shorten(body: bytes) -> str:
    text = " ".join(body.decode("utf-8", "replace").split())
    return text if len(text) <= BODY_CHARACTERS_SHOWN else f"{text[:BODY_CHARACTERS_SHOWN]}…"
