"""The declaration of an experiment: a fault in a separate system under load, and the servers that it needs."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, unique

from tests.fault.laboratory import Laboratory

SECONDS_SHORT = 10.0
"""The duration of an experiment that has no end by itself, if several experiments run in turn."""


@unique
class Broker(Enum):
    """The transport of the events."""

    NONE = "the worker reads the journal"
    EITHER = "none or a broker, by the seed"
    SHARED = "the run's broker"
    OWN = "a broker that is broken"


@dataclass(frozen=True, slots=True)
class Experiment:
    """One fault, by its number; after `run` has returned, the system comes to rest and is then checked."""

    number: int
    name: str
    run: Callable[[Laboratory], Awaitable[None]]
    broker: Broker = Broker.NONE
    has_own_postgres: bool = False
    """Whether it stops, kills or reconfigures the database server."""
