"""What an experiment is: a fault done to a system of its own while money moves, and what it needs for that."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, unique

from tests.fault.laboratory import Laboratory

SECONDS_SHORT = 10.0
"""How long an experiment without an end of its own goes on where many have their turn."""


@unique
class Broker(Enum):
    """What carries the events."""

    NONE = "the worker reads the journal"
    EITHER = "none or a broker, by the seed"
    SHARED = "the run's broker"
    OWN = "a broker that is broken"


@dataclass(frozen=True, slots=True)
class Experiment:
    """One fault, by its number; when `run` returns, the system is left to itself and then proved."""

    number: int
    name: str
    run: Callable[[Laboratory], Awaitable[None]]
    broker: Broker = Broker.NONE
    has_own_postgres: bool = False
    """Whether it stops, kills or reconfigures the database server."""
