"""The checks of what was answered: every outcome known, no server error, every replay the same."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from wallet.stress.client import decode_json
from wallet.stress.exchanges import Answer, Exchange, NoAnswer
from wallet.stress.findings import Check, check_of, count_of
from wallet.stress.operations import Key, Kind
from wallet.stress.outcomes import Outcome, Verdict

BODY_CHARACTERS_SHOWN: Final = 200
REDIRECTS: Final = range(300, 400)


def check_outcomes(exchanges: Sequence[Exchange], outcomes: Mapping[Key, Outcome]) -> Check:
    """Every request came to a definite answer, and to one that it can have."""
    verdicts = [outcome.verdict for outcome in outcomes.values()]
    done, refused = verdicts.count(Verdict.SUCCEEDED), verdicts.count(Verdict.REFUSED)
    return check_of(
        "every request was answered", f"{count_of(done, 'key')} done, {refused:,} refused", map(_unknown, exchanges)
    )


def check_server_errors(exchanges: Sequence[Exchange]) -> Check:
    """No 5xx; a 503 is allowed, if the same key then came to its outcome."""
    retried = sum(len(exchange.tries) - 1 for exchange in exchanges)
    return check_of("no server errors", count_of(retried, "retry", "retries"), _errors(exchanges))


def check_replays(outcomes: Mapping[Key, Outcome]) -> Check:
    """A key that is sent again gets the same status and body.

    Bodies that differ in their bytes are the same if they are equal as JSON. Of a refusal the status alone counts:
    a service may tell the time in its errors.
    """
    replays = [(key, outcome.answers[0], again) for key, outcome in outcomes.items() for again in outcome.answers[1:]]
    same_bytes = sum(first.body == again.body for _, first, again in replays)
    seen = count_of(len(replays), "replay")
    if replays:
        others = len(replays) - same_bytes
        seen += ", byte for byte" if not others else f", {others:,} of them with other bytes that say the same"
    return check_of("replays are identical", seen, (_difference(*replay) for replay in replays))


def _unknown(exchange: Exchange) -> str | None:
    operation = exchange.request.operation
    last = exchange.tries[-1]
    tries = count_of(len(exchange.tries), "try", "tries")
    if isinstance(last, NoAnswer):
        return f"{operation.key} ({operation}) got no answer in {tries}: {last.reason}"
    if not last.is_definite:
        return f"{operation.key} ({operation}) was still answered {last.status} after {tries}"
    if last.status in REDIRECTS or (operation.kind is Kind.DEPOSIT and not last.is_success):
        return f"{operation.key} ({operation}) was answered {last.status}: {_shorten(last.body)}"
    return None


def _errors(exchanges: Iterable[Exchange]) -> Iterator[str]:
    for exchange in exchanges:
        operation = exchange.request.operation
        for attempt in exchange.tries:
            if isinstance(attempt, Answer) and attempt.is_server_error:
                yield f"{operation.key} ({operation}) was answered {attempt.status}: {_shorten(attempt.body)}"


def _difference(key: Key, first: Answer, again: Answer) -> str | None:
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
