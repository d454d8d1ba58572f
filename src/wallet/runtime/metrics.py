"""Metrics: each is declared once, in the file that counts it, and belongs to one kind of process.

    SEALED: Final = Counter("wallet_relay_batches_sealed", "Batches that were given a position.", process="relay")
    metrics.add(SEALED, 3)

If several processes share a port, each writes its values to a file that the others read, and any of them answers a
scrape for all. Counters are then sums over all processes that have ever run, and gauges are sums over those that run
now. The library's metrics of a single process (`process_…`, `python_gc_…`) are left out in this case.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Final, Literal, assert_never

import prometheus_client as library
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.values import MultiProcessValue

from wallet.runtime.loop import Shared

ProcessKind = Literal["api", "relay", "worker"]

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The library's environment variable for the directory with the files of processes that share a port."""
CURRENT_SECONDS: Final = 1.0
"""How old the value of a gauge of another process may be at a scrape."""
TEXT_SECONDS: Final = 1.0
"""How old a scrape may be. Rendering blocks the event loop for milliseconds, and anyone may request it."""


@dataclass(frozen=True, eq=False)
class Counter:
    """A count that only grows. Prometheus adds `_total` to its name."""

    name: str
    documentation: str
    _: KW_ONLY
    process: ProcessKind
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _declared.append(self)


@dataclass(frozen=True, eq=False)
class Gauge:
    """A value that goes up and down."""

    name: str
    documentation: str
    _: KW_ONLY
    process: ProcessKind
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _declared.append(self)


@dataclass(frozen=True, eq=False)
class Histogram:
    """A distribution of values, counted in buckets with these upper bounds."""

    name: str
    documentation: str
    buckets: tuple[float, ...]
    _: KW_ONLY
    process: ProcessKind
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _declared.append(self)


Metric = Counter | Gauge | Histogram
_declared: Final[list[Metric]] = []

_PROCESSES: Final = Gauge("wallet_api_processes", "Processes that serve this port.", process="api")


class Metrics:
    """The values of the metrics of one process."""

    def __init__(self, process: ProcessKind, *, process_number: int | None = None) -> None:
        """Create the metrics of a process. `process_number` is set if several processes share the port."""
        # Without this, the library adds a series with the creation time of each metric, which doubles a scrape.
        library.disable_created_metrics()  # type: ignore[no-untyped-call] # the library types most, not this
        self._registry = library.CollectorRegistry()
        self._is_shared = process_number is not None
        if process_number is None:
            own = self._registry
            ProcessCollector(registry=own)
            PlatformCollector(registry=own)
            GCCollector(registry=own)
        else:
            _share_values(process_number)
            # A scrape reads the files of all processes. This process counts into a registry and a file of its own.
            own = library.CollectorRegistry()
            PlatformCollector(registry=self._registry)
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        self._counters: dict[Counter, library.Counter] = {}
        self._gauges: dict[Gauge, library.Gauge] = {}
        self._histograms: dict[Histogram, library.Histogram] = {}
        self._observers: dict[tuple[Histogram, tuple[str, ...]], library.Histogram] = {}
        self._asked: dict[Gauge, Callable[[], float]] = {}
        self._refreshers: list[Callable[[], Awaitable[None]]] = []
        self._text = Shared(self._refresh_and_render, seconds=TEXT_SECONDS)
        for declared in _declared:
            if declared.process == process:
                self._create(declared, own)
        if process == "api":
            self.set(_PROCESSES, 1)

    def add(self, counter: Counter, amount: float = 1, *labels: str) -> None:
        """Add to a counter."""
        made = self._counters[counter]
        (made.labels(*labels) if labels else made).inc(amount)

    def set(self, gauge: Gauge, value: float) -> None:
        """Set a gauge."""
        self._gauges[gauge].set(value)

    def ask(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Read the gauge from `value` at each scrape or, if several processes share the port, every second."""
        self._asked[gauge] = value

    def observe(self, histogram: Histogram, value: float, *labels: str) -> None:
        """Count a value in a histogram."""
        # Finding a child by its labels costs more than the observation itself. There are few children, so cache them.
        child = self._observers.get((histogram, labels))
        if child is None:
            made = self._histograms[histogram]
            child = self._observers[histogram, labels] = made.labels(*labels) if labels else made
        child.observe(value)

    def register(self, collector: Collector, refresh: Callable[[], Awaitable[None]]) -> None:
        """Add series from elsewhere, equal for all processes of a port. `refresh` reads them before a scrape."""
        self._registry.register(collector)
        self._refreshers.append(refresh)

    async def text(self) -> bytes:
        """Returns the metrics in Prometheus' text format, at most TEXT_SECONDS old, however many callers there are."""
        return await self._text.get()

    def render(self) -> bytes:
        """Returns all current metrics in Prometheus' text format."""
        self._ask_all()
        return library.generate_latest(self._registry)

    async def _refresh_and_render(self) -> bytes:
        for refresh in self._refreshers:
            await refresh()
        return self.render()

    async def keep_current(self) -> None:
        """Publish, until cancelled, the gauges that only this process can read to the other processes of the port."""
        while self._is_shared:
            self._ask_all()
            await asyncio.sleep(CURRENT_SECONDS)

    def _ask_all(self) -> None:
        for gauge, value in self._asked.items():
            self.set(gauge, value())

    def _create(self, declared: Metric, registry: library.CollectorRegistry) -> None:
        match declared:
            case Counter(name, documentation):
                self._counters[declared] = library.Counter(name, documentation, declared.labels, registry=registry)
            case Gauge(name, documentation):
                self._gauges[declared] = library.Gauge(
                    name, documentation, declared.labels, registry=registry, multiprocess_mode="livesum"
                )
            case Histogram(name, documentation, buckets):
                self._histograms[declared] = library.Histogram(
                    name, documentation, declared.labels, buckets=buckets, registry=registry
                )
            case _:
                assert_never(declared)


def forget_process(directory: Path, process_number: int) -> None:
    """Remove the gauges of a process that ended. Its counters stay."""
    mark_process_dead(process_number, directory)  # type: ignore[no-untyped-call]


def _share_values(process_number: int) -> None:
    # Files are named by our number, not by the process id. So a process that is started again continues the file of its
    # predecessor, and the number of files does not grow. The library reads their directory from the environment.
    library.values.ValueClass = MultiProcessValue(lambda: process_number)  # type: ignore[no-untyped-call]
