"""What Prometheus sees of the API: requests by route and status, their latency, the audit's losses, the queue.

Where several processes share a port, each writes its numbers to a file that the others read, and any of them answers a
scrape for all: counts are sums over every process that has run, the queue's depth over those that run. What the
library can only tell of one process (`process_…`, `python_gc_…`) is left out there. What the auditor found is read from
the database by the process that is asked, see audit_metrics.py.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.values import MultiProcessValue

from wallet.api.contract.integrity_schemas import AuditResponse
from wallet.api.integrity_metrics import AuditCollector

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
LATENCY_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Where processes that share a port keep the files; the library's own name for it."""
CURRENT_SECONDS: Final = 1.0
"""How old the queue's depth of another process may be at a scrape."""
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"})


class Metrics:
    """The API's metrics, in a registry of their own."""

    def __init__(self, queue_depth: Callable[[], float] = lambda: 0.0, *, process_number: int | None = None) -> None:
        """`queue_depth` is asked at each scrape, or every second by `keep_current` in one of several processes."""
        # A second series per metric, telling when it began, doubles a scrape and tells nobody anything.
        disable_created_metrics()  # type: ignore[no-untyped-call] # the library types most, not this
        self._registry = CollectorRegistry()
        self._is_shared = process_number is not None
        if process_number is None:
            own = self._registry
            ProcessCollector(registry=own)
            PlatformCollector(registry=own)
            GCCollector(registry=own)
        else:
            _share_values(process_number)
            # What is scraped comes from the files of all processes; what is counted goes to our own file.
            own = CollectorRegistry()
            PlatformCollector(registry=self._registry)
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        self._requests = Histogram(
            "wallet_http_request_seconds",
            "Time from the first byte of a request to the last of its answer; its count is that of the requests.",
            ("method", "route", "status"),
            buckets=LATENCY_SECONDS,
            registry=own,
        )
        self._audit_rows_lost = Counter(
            "wallet_audit_rows_lost",
            "Audit rows of refused POSTs that could not be written.",
            registry=own,
        )
        self._queue_depth = Gauge(
            "wallet_ledger_queue_depth", "Commands waiting for a batch.", registry=own, multiprocess_mode="livesum"
        )
        self._audit = AuditCollector()
        self._registry.register(self._audit)
        self._ask_queue_depth = queue_depth
        processes = Gauge(
            "wallet_api_processes", "Processes that serve this port.", registry=own, multiprocess_mode="livesum"
        )
        processes.set(1)
        self._request_seconds: dict[tuple[str, str, int], Histogram] = {}

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        key = (method if method in _METHODS else "other", route, status)
        # Finding a child by its labels costs more than the observation itself; there are few, so keep them.
        child = self._request_seconds.get(key)
        if child is None:
            child = self._request_seconds[key] = self._requests.labels(*key)
        child.observe(seconds)

    def show_audit(self, report: AuditResponse | None) -> None:
        """Show the auditor's report at the next scrape, or that there is none."""
        self._audit.report = report

    def count_audit_losses(self, count: int) -> None:
        """Count audit rows that will never be written."""
        self._audit_rows_lost.inc(count)

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        self._queue_depth.set(self._ask_queue_depth())
        return generate_latest(self._registry)

    async def keep_current(self) -> None:
        """Write down for the other processes, if there are any, what only this one can be asked; until cancelled."""
        while self._is_shared:
            self._queue_depth.set(self._ask_queue_depth())
            await asyncio.sleep(CURRENT_SECONDS)


def forget_process(directory: Path, process_number: int) -> None:
    """Take out what was true of a process that ended; what it counted stays."""
    mark_process_dead(process_number, directory)  # type: ignore[no-untyped-call]


def _share_values(process_number: int) -> None:
    # By our number rather than the process id, so that a process started again goes on counting where its predecessor
    # was: the files stay as many as the processes. The library reads the name of their directory from the environment.
    values.ValueClass = MultiProcessValue(lambda: process_number)  # type: ignore[no-untyped-call]
