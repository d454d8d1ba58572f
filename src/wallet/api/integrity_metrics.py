"""The report of the integrity monitor as metrics.

The values come from the database and are the same for every process. So the process that is scraped collects them at
each scrape, and they are never summed over the processes of a port. If the database can't be read, they are omitted.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from math import inf
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wallet.api.contract.schemas import IntegrityResponse
from wallet.queries.reading import ReadFailed

REFRESH_SECONDS_MAX: Final = 2.0
_STATUS: Final = {"starting": -1, "clean": 0, "behind": 1, "broken": 2}


class IntegrityCollector(Collector):
    """Collects the report that was read last, or nothing if the database can't be read."""

    def __init__(self, read: Callable[[], Awaitable[IntegrityResponse]]) -> None:
        self.report: IntegrityResponse | None = None
        self._read = read

    async def refresh(self) -> None:
        """Read the report. A scrape waits for the database at most REFRESH_SECONDS_MAX."""
        try:
            async with asyncio.timeout(REFRESH_SECONDS_MAX):
                self.report = await self._read()
        except (ReadFailed, TimeoutError):
            self.report = None

    def collect(self) -> Iterator[Metric]:
        """Yields the gauges of one scrape."""
        report = self.report
        if report is None:
            return
        yield _gauge(
            "wallet_integrity_status",
            "0 clean, 1 behind, 2 broken, -1 not everything was checked once.",
            _STATUS[report.status],
        )
        faults = GaugeMetricFamily(
            "wallet_integrity_faults", "Rows that break a promise.", labels=("check", "invariant")
        )
        for check in report.checks:
            faults.add_metric((check.name, check.invariant), check.faults)
        yield faults
        age, full = report.incremental.age_seconds, report.full_check
        yield _gauge("wallet_integrity_check_age_seconds", "Since the last check of what changed.", _or_never(age))
        yield _gauge(
            "wallet_integrity_full_check_age_seconds",
            "Since the last check of everything began.",
            _or_never(full.age_seconds),
        )
        yield _gauge(
            "wallet_integrity_full_check_duration_seconds", "How long it took.", _or_never(full.duration_seconds)
        )
        yield _gauge("wallet_integrity_behind_batches", "Batches sealed since.", report.incremental.behind_batches)
        yield _gauge(
            "wallet_oldest_unsealed_seconds",
            "How long the oldest event without a place in the journal has waited.",
            report.oldest_unsealed_seconds,
        )
        yield _gauge(
            "wallet_oldest_unpublished_seconds",
            "How long the oldest unpublished event has waited.",
            report.oldest_unpublished_seconds,
        )
        yield _gauge("wallet_worker_lag_events", "Published events without effect yet.", report.worker.lag_events)
        yield _gauge("wallet_worker_lag_seconds", "How old the oldest of them is.", report.worker.lag_seconds)
        yield _gauge("wallet_transfers_stuck", "Transfers that do not end.", report.transfers.stuck)
        yield _gauge("wallet_dead_letters_open", "Open dead letters.", report.dead_letters_open)
        yield _gauge(
            "wallet_money_in_flight",
            "Debited, and not yet credited or returned; rounded, `GET /integrity` has it exactly.",
            float(report.conservation.in_flight),
        )


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)


def _or_never(seconds: float | None) -> float:
    return inf if seconds is None else seconds
