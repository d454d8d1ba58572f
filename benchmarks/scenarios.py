"""The declarations of all scenarios: their names, loads and goals."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final


@unique
class Bound(Enum):
    """The comparison that a figure must satisfy with its limit."""

    AT_LEAST = "≥"
    AT_MOST = "≤"
    BELOW = "<"

    def holds(self, value: float, limit: float) -> bool:
        """Returns whether the value satisfies the comparison with the limit."""
        match self:
            case Bound.AT_LEAST:
                return value >= limit
            case Bound.AT_MOST:
                return value <= limit
            case Bound.BELOW:
                return value < limit


@unique
class Yardstick(Enum):
    """A simpler design for comparison: pgbench with one function call per operation. The value names its script."""

    DEPOSIT = "deposit"
    HOT_DEPOSIT = "hot_deposit"
    TRANSFER = "transfer"
    HOT_TRANSFER = "hot_transfer"

    @property
    def title(self) -> str:
        """Returns its name as it is shown in the report."""
        return self.value.replace("_", " ")


@dataclass(frozen=True, slots=True)
class Criterion:
    """One goal of a scenario: a limit in the figure's unit, or as a multiple of the figure named by `against`."""

    figure: str
    unit: str
    bound: Bound
    limit: float
    against: str | None = None
    shown_beside: str | None = None
    """A figure whose ratio is only shown, not judged, for a limit in the figure's unit."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """A load that wrk sends: operations of one kind over keep-alive connections."""

    kind: str
    connections: int
    wallet_count: int
    operations_per_request: int = 1
    """1 uses the route of a single operation; a larger number is the size of each `POST /operations`."""
    api_processes: int = 1
    """The value of `wallet api --workers`."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario: its load, its yardstick and its goals."""

    name: str
    title: str
    criteria: tuple[Criterion, ...]
    yardstick: Yardstick | None = None
    pressure: Pressure | None = None
    beside: Pressure | None = None
    """Another load on the service, run alternately with `pressure`, for a comparison of the two."""


class UnknownScenario(ValueError):
    """No scenario has this name."""


def chosen(names: Sequence[str]) -> tuple[Scenario, ...]:
    """Returns the scenarios with these names, or all without names, in their declared order. Raises UnknownScenario."""
    known = {scenario.name for scenario in SCENARIOS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UnknownScenario(
            f"unknown scenario: {', '.join(unknown)}; the scenarios are {', '.join(s.name for s in SCENARIOS)}"
        )
    return tuple(scenario for scenario in SCENARIOS if not names or scenario.name in names)


def _rate(limit: float, against: str, *, of: str, bound: Bound = Bound.AT_LEAST) -> Criterion:
    return Criterion(of, "/s", bound, limit, against)


def _flat_memory() -> Criterion:
    return Criterion("memory", " MB", Bound.AT_MOST, 1.10, MEMORY_EARLIER)


WALLETS: Final = 10_000
TRANSFER_WALLETS: Final = 1_000
BULK_SIZE: Final = 500
BULK_CONNECTIONS: Final = 4

SPREAD_OUT: Final = f"{WALLETS:,} wallets"
MEMORY_EARLIER: Final = "a quarter in"
EMPTY_LOG_DEPOSITS: Final = "empty log"
EMPTY_LOG_PAGE: Final = "empty log's page"

_BULK: Final = {"connections": BULK_CONNECTIONS, "operations_per_request": BULK_SIZE}
_D256: Final = Pressure("deposit", 256, WALLETS)

SCENARIOS: Final = (
    Scenario(
        "deposits-64",
        "single deposits over HTTP, 64 keep-alive connections, 10,000 wallets",
        (
            _rate(0.40, Yardstick.DEPOSIT.title, of="deposits"),
            Criterion("p99", " ms", Bound.BELOW, 120),
        ),
        Yardstick.DEPOSIT,
        Pressure("deposit", 64, WALLETS),
    ),
    Scenario(
        "deposits-256",
        "the same over 256 connections, two api processes",
        (_rate(0.70, Yardstick.DEPOSIT.title, of="deposits"),),
        Yardstick.DEPOSIT,
        Pressure("deposit", 256, WALLETS, api_processes=2),
    ),
    Scenario(
        "hot-deposits",
        "the same on ONE wallet",
        (
            _rate(0.9, SPREAD_OUT, of="deposits"),
            _rate(1.3, Yardstick.HOT_DEPOSIT.title, of="deposits"),
        ),
        Yardstick.HOT_DEPOSIT,
        Pressure("deposit", 256, 1),
        beside=_D256,
    ),
    Scenario(
        "transfers-64",
        "single transfers over HTTP, 64 connections, 1,000 wallets",
        (_rate(0.30, Yardstick.TRANSFER.title, of="transfers"),),
        Yardstick.TRANSFER,
        Pressure("transfer", 64, TRANSFER_WALLETS),
    ),
    Scenario(
        "bulk-deposits",
        "500 deposits per request, 4 connections",
        (_rate(1.5, Yardstick.DEPOSIT.title, of="deposits"),),
        Yardstick.DEPOSIT,
        Pressure("deposit", wallet_count=WALLETS, **_BULK),
    ),
    Scenario(
        "bulk-transfers",
        "500 transfers per request among 1,000 wallets, 4 connections",
        (_rate(0.8, Yardstick.TRANSFER.title, of="transfers"),),
        Yardstick.TRANSFER,
        Pressure("transfer", wallet_count=TRANSFER_WALLETS, **_BULK),
    ),
    Scenario(
        "bulk-hot-transfers",
        "the same, all to one receiver",
        (_rate(4.0, Yardstick.HOT_TRANSFER.title, of="transfers"),),
        Yardstick.HOT_TRANSFER,
        Pressure("hot-transfer", wallet_count=TRANSFER_WALLETS, **_BULK),
    ),
    Scenario(
        "relay",
        "100,000 events waiting, to the queue with confirms",
        (Criterion("events", "/s", Bound.AT_LEAST, 6_000, shown_beside=Yardstick.DEPOSIT.title), _flat_memory()),
        Yardstick.DEPOSIT,
    ),
    Scenario(
        "worker",
        "100,000 messages waiting, all handlers",
        (Criterion("events", "/s", Bound.AT_LEAST, 3_000, shown_beside=Yardstick.DEPOSIT.title), _flat_memory()),
        Yardstick.DEPOSIT,
    ),
    Scenario(
        "end-to-end",
        "500 deposits/s offered in an open loop, latency from the intended start, whole pipeline running",
        (
            Criterion("answer p50", " ms", Bound.BELOW, 15),
            Criterion("answer p99", " ms", Bound.BELOW, 80),
            Criterion("to wallet_stats p99", " ms", Bound.BELOW, 1_000),
        ),
    ),
    Scenario(
        "growth",
        "a log of 3,000,000 events (300,000 with --quick) against an empty one",
        (
            _rate(0.85, EMPTY_LOG_DEPOSITS, of="bulk deposits"),
            Criterion("history page", " ms", Bound.AT_MOST, 1.5, EMPTY_LOG_PAGE),
            Criterion("worker restart", " s", Bound.BELOW, 2),
        ),
    ),
    Scenario(
        "idle",
        "CPU time of api, relay and worker without load, as a part of one core",
        (Criterion("CPU", " %", Bound.AT_MOST, 2),),
    ),
)
