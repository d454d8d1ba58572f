"""Checks the promise of `not_executed` (I16) against all attempts with the key.

The promise: the attempt had no effect, and the process that answered has no other attempt with the key that may take
effect without the knowledge of its client. A history can prove the following about it:

- The definite answers of a key show whether they are replays. If one is not a replay, its own attempt had the effect,
  and every `not_executed` of the key may have been right. If all are replays, an attempt without a definite answer had
  the effect.
- If all attempts without a definite answer were answered `not_executed`, one of these answers was wrong.
- Suppose that one of them was answered `not_executed`, and all others were answered `outcome_unknown` by the same
  process before that attempt was sent. Then `not_executed` was wrong: that attempt or one of the others had the effect.

Nothing follows from an attempt without an answer, because the process may have answered it. Nothing follows from an
attempt through another process, or through the same address after a restart. Nothing follows from attempts that
overlapped, because one may have been read after the other was answered.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from tests.fault.load import Start
from tests.fault.orders import fields_of
from wallet.stress.exchanges import NoAnswer, ServiceAnswer, Timing, TriedRequest
from wallet.stress.operations import Key

Attempt = tuple[ServiceAnswer | NoAnswer, Timing]


def wrongly_not_executed(exchanges: Sequence[TriedRequest], starts: Sequence[Start]) -> Iterator[str]:
    """Yields a fault for every `not_executed` that the other attempts with its key prove wrong."""
    attempts: defaultdict[Key, list[Attempt]] = defaultdict(list)
    for exchange in exchanges:
        attempts[exchange.request.operation.key] += [
            (each, each.timing) for each in exchange.tries if each.timing is not None
        ]
    for key, same_key in attempts.items():
        refused = [timing for each, timing in same_key if _code_of(each) == "not_executed"]
        definite = [(each, timing) for each, timing in same_key if isinstance(each, ServiceAnswer) and each.is_definite]
        if refused and definite and all(each.is_replayed for each, _ in definite):
            rest = [each for each in same_key if each not in definite and each[1] not in refused]
            first_known = min(timing.ended_at_seconds for _, timing in definite)
            yield from _wrong(key, [each for each in refused if each.ended_at_seconds <= first_known], rest, starts)


def _wrong(key: Key, refused: Sequence[Timing], rest: Sequence[Attempt], starts: Sequence[Start]) -> Iterator[str]:
    for timing in refused:
        if not rest:
            yield f"{key} took effect, and each of its attempts before the answer was answered not_executed"
        elif all(_code_of(each) == "outcome_unknown" and _is_before(other, timing, starts) for each, other in rest):
            yield (
                f"{key} was answered not_executed by {timing.url} after outcome_unknown by the same process, "
                "and took effect from one of these attempts"
            )


def _is_before(one: Timing, other: Timing, starts: Sequence[Start]) -> bool:
    """Returns whether one ended before the other was sent, and the same process answered both."""
    restarts = (url == one.url and one.sent_at_seconds < at < other.ended_at_seconds for url, at in starts)
    return one.url == other.url and one.ended_at_seconds <= other.sent_at_seconds and not any(restarts)


def _code_of(attempt: ServiceAnswer | NoAnswer) -> object:
    return fields_of(attempt).get("code") if isinstance(attempt, ServiceAnswer) else None
