"""The checks and their results: the vocabulary that every pass over the books uses."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol


class Check(Enum):
    """The promises, by the names of their invariants, in the order in which they are checked and shown."""

    CONSERVATION = "I1", "conservation", "balances + money in flight = deposits − withdrawals"
    BALANCES = "I2", "balance", "each wallet = its last event = the fold of its events"
    VERSIONS = "I3", "versions", "1 to n; each balance follows from the one before; time increases"
    OVERDRAFTS = "I4", "no overdraft", "no balance below 0"
    OUTCOMES = "I5", "once", "each success has exactly one event and each event one success; answers agree with them"
    DELIVERY = "I6", "delivery", "no effect without its event, no failure without its dead letter"
    EFFECTS = "I17", "effects", "each event has its effect, an open dead letter, or is on its way"
    TRANSFERS = "I7", "sagas end", "no transfer stuck; each agrees with its events and its outcome"
    TRAIL = "I18", "audit trail", "each outcome has its row, which agrees; or it was pruned, with a record"
    PROJECTIONS = "I8", "projections", "statistics and alerts = the fold of the events processed"
    POSITIONS = "I9", "journal", "positions 1 to n, chained from the first to the head"
    DIGESTS = "I9", "batches", "each has its events and outcomes, unchanged since it was committed"
    PAYLOADS = "I9", "payloads", "what was published agrees with the columns"
    STRAYS = "I9", "nothing outside", "no event and no operation without its batch in the journal"
    HEADS = "I9", "exported heads", "each is in the journal, with its chain"
    READABLE = "I9", "readable", "PostgreSQL can read every page that the checks need"

    def __init__(self, invariant: str, title: str, promise: str) -> None:
        self.invariant = invariant
        self.title = title
        self.promise = promise


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that breaks a promise: its name, the expected value, and the found value."""

    table: str
    row: str
    expected: str
    found: str


@dataclass(slots=True)
class Finding:
    """The result of one check in a pass: how many rows it read, the number of faults, and the first fault."""

    check: Check
    noun: str
    checked_count: int = 0
    fault_count: int = 0
    first: Fault | None = None
    warnings: list[str] = field(default_factory=list)

    def add_fault(self, table: str, row: str, *, expected: str, found: str, count: int = 1) -> None:
        """Count a fault, or several that were counted elsewhere; only the first is kept."""
        self.fault_count += count
        if self.first is None:
            self.first = Fault(table, row, expected, found)


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the books: its findings and its duration."""

    findings: list[Finding]
    seconds: float


def counted(count: int, noun: str) -> str:
    """Returns a number with its noun, such as `1 batch` or `2,000 events`."""
    plural = noun + ("es" if noun.endswith("ch") else "s")
    return f"{count:,} {noun if count == 1 else plural}"


class Observer(Protocol):
    """Receives the progress of a proof."""

    def begin(self, title: str, unit: str, total: int) -> None:
        """A pass begins. `total` is the approximate number of units, 0 if it is unknown."""

    def advance(self, count: int) -> None:
        """This many more units were read."""

    def end(self, done: Pass) -> None:
        """The pass ended."""


class Unobserved:
    """An observer that shows nothing."""

    def begin(self, title: str, unit: str, total: int) -> None:
        """Do nothing."""

    def advance(self, count: int) -> None:
        """Do nothing."""

    def end(self, done: Pass) -> None:
        """Do nothing."""
