"""Formats a run's findings for a person: what was done, how fast, which promises were kept, the verdict."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from wallet.stress.exchanges import ServiceAnswer, TriedRequest
from wallet.stress.findings import RunCheck, count_of
from wallet.stress.run import Findings, Options

KEPT: Final = "✓"
BROKEN: Final = "✗"
UNCHECKED: Final = "–"
FAULTS_SHOWN: Final = 3
PERCENTILES: Final = (50, 90, 99)


def heading(options: Options) -> str:
    """Returns a line that describes the run before it starts."""
    return (
        f"monkey → {without_password(options.url)}: {count_of(options.request_count, 'request')}, "
        f"{options.concurrency:,} at once, {count_of(options.wallet_count, 'wallet')}, "
        f"run {options.run_id}, seed {options.seed}"
    )


def report_lines(options: Options, findings: Findings) -> Iterator[str]:
    """Yields the whole report, the verdict last."""
    exchanges = findings.exchanges
    if len(exchanges) < options.request_count:
        yield f"Ended early: {len(exchanges):,} of {count_of(options.request_count, 'request')} were sent."
    yield ""
    rate = len(exchanges) / findings.sending_seconds if findings.sending_seconds else 0
    yield f"  requests   {len(exchanges):,} in {findings.sending_seconds:.2f} s: {rate:,.0f} requests/s"
    yield f"  latency    {_latencies(exchanges)}"
    yield f"  answers    {_statuses(exchanges)}"
    yield f"  repeats    {_repeats(exchanges)}"
    caught_up = "caught up in" if findings.has_caught_up else "has not caught up after"
    yield f"  worker     {caught_up} {findings.catching_up_seconds:.1f} s"
    yield ""
    for check in findings.checks:
        yield from _lines_of(check)
    yield ""
    yield verdict(findings)
    yield f"repeat it: {repeat_line(options)}"


def report_object(options: Options, findings: Findings) -> dict[str, Any]:
    """Returns the whole report as an object for scripts."""
    exchanges = findings.exchanges
    seconds = sorted(exchange.took_seconds for exchange in exchanges)
    return {
        "isClean": findings.is_clean,
        "url": without_password(options.url),
        "runId": options.run_id,
        "seed": options.seed,
        "requestCount": len(exchanges),
        "requestedCount": options.request_count,
        "sendingSeconds": round(findings.sending_seconds, 3),
        "latencyMs": {
            f"p{each}": round(percentile_seconds(seconds, each) * 1000, 3) for each in PERCENTILES if seconds
        },
        "workerCaughtUp": findings.has_caught_up,
        "workerSeconds": round(findings.catching_up_seconds, 3),
        "checks": [
            {"promise": each.promise, "isChecked": each.is_checked, "seen": each.seen, "faults": list(each.faults)}
            for each in findings.checks
        ],
        "repeat": repeat_line(options),
    }


def repeat_line(options: Options) -> str:
    """Returns the command that sends the same operations again, from new wallets."""
    return (
        f"./wallet monkey --url {without_password(options.url)} --requests {options.request_count} "
        f"--concurrency {options.concurrency} --wallets {options.wallet_count} --seed {options.seed}"
    )


def without_password(url: str) -> str:
    """Returns the address without its password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def percentile_seconds(sorted_seconds: Sequence[float], percent: int) -> float:
    """Returns the percentile by nearest rank: the smallest value that this percentage of the values does not exceed."""
    return sorted_seconds[max(0, math.ceil(len(sorted_seconds) * percent / 100) - 1)]


def _latencies(exchanges: Sequence[TriedRequest]) -> str:
    """Returns the times from the first byte sent to the outcome, retries included."""
    seconds = sorted(exchange.took_seconds for exchange in exchanges)
    if not seconds:
        return "none"
    named = [(f"p{percent}", percentile_seconds(seconds, percent)) for percent in PERCENTILES] + [("max", seconds[-1])]
    return "   ".join(f"{name} {value * 1000:,.0f} ms" for name, value in named)


def _statuses(exchanges: Sequence[TriedRequest]) -> str:
    """Returns how often each status was seen, retried tries included."""
    counts = Counter(
        str(attempt.status) if isinstance(attempt, ServiceAnswer) else f"none ({attempt.reason})"
        for exchange in exchanges
        for attempt in exchange.tries
    )
    return "   ".join(f"{status}: {count:,}" for status, count in sorted(counts.items())) or "none"


def _repeats(exchanges: Sequence[TriedRequest]) -> str:
    first_of: dict[str, TriedRequest] = {}
    repeats = overlapping = 0
    for exchange in sorted(exchanges, key=lambda exchange: exchange.sent_at_seconds):
        first = first_of.setdefault(exchange.request.operation.key, exchange)
        if first is not exchange:
            repeats += 1
            overlapping += exchange.sent_at_seconds < first.ended_at_seconds
    return f"{repeats:,} with an earlier key, {overlapping:,} of them while the first was under way"


def _lines_of(check: RunCheck) -> Iterator[str]:
    """Yields one line for a promise that was kept; below one that was not, its first faults."""
    if not check.faults:
        yield f"  {KEPT if check.is_checked else UNCHECKED} {check.promise:<26}  {check.seen}"
        return
    yield f"  {BROKEN} {check.promise:<26}  {count_of(len(check.faults), 'fault')}"
    yield from (f"      {fault}" for fault in check.faults[:FAULTS_SHOWN])
    if len(check.faults) > FAULTS_SHOWN:
        yield f"      and {len(check.faults) - FAULTS_SHOWN:,} more"


def verdict(findings: Findings) -> str:
    broken = [check.promise for check in findings.checks if check.faults]
    if not broken:
        return "clean: every promise was kept"
    return f"NOT clean: {len(broken)} of {count_of(len(findings.checks), 'promise')} broken"
