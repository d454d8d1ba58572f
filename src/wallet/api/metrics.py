"""What Prometheus sees of the API: requests by route and status, their latency, the audit's losses, the queue."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
LATENCY_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"})


class Metrics:
    """The API's metrics, in a registry of their own; `queue_depth` is asked at each scrape."""

    def __init__(self, queue_depth: Callable[[], float] | None = None) -> None:
        # A second series per metric, telling when it began, doubles a scrape and tells nobody anything.
        disable_created_metrics()  # type: ignore[no-untyped-call] # the library types most, not this
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._requests = Histogram(
            "wallet_http_request_seconds",
            "Time from the first byte of a request to the last of its answer; its count is that of the requests.",
            ("method", "route", "status"),
            buckets=LATENCY_SECONDS,
            registry=self._registry,
        )
        self._audit_rows_lost = Counter(
            "wallet_audit_rows_lost",
            "Audit rows of refused POSTs that could not be written.",
            registry=self._registry,
        )
        depth = Gauge("wallet_ledger_queue_depth", "Commands waiting for a batch.", registry=self._registry)
        depth.set_function(queue_depth or (lambda: 0.0))
        self._request_seconds: dict[tuple[str, str, int], Histogram] = {}

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        key = (method if method in _METHODS else "other", route, status)
        # Finding a child by its labels costs more than the observation itself; there are few, so keep them.
        child = self._request_seconds.get(key)
        if child is None:
            child = self._request_seconds[key] = self._requests.labels(*key)
        child.observe(seconds)

    def count_audit_losses(self, count: int) -> None:
        """Count audit rows that will never be written."""
        self._audit_rows_lost.inc(count)

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)
