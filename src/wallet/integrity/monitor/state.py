"""What the auditor knows of the books, as it is kept in its row: it survives restarts and changes of the holder.

A field added later has a default, so that the row of an earlier version can be read; none changes its meaning.
"""

from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

import msgspec

from wallet.domain.money import ZERO, add, subtract
from wallet.wire.digest import GENESIS

PAGE_EVENTS_MAX: Final = 2_000


class Head(msgspec.Struct, frozen=True):
    """A place in the journal, and the chain up to it."""

    position: int = 0
    chain: bytes = GENESIS


class Sums(msgspec.Struct, frozen=True):
    """How much was moved by all events up to a place in the journal."""

    deposits: Decimal = ZERO
    withdrawals: Decimal = ZERO
    debits: Decimal = ZERO
    credits: Decimal = ZERO
    compensations: Decimal = ZERO

    @property
    def in_flight(self) -> Decimal:
        """Debited from its sender, and neither credited nor returned."""
        return subtract(self.debits, add(self.credits, self.compensations))

    @property
    def balances(self) -> Decimal:
        """What all wallets must hold together."""
        return subtract(subtract(self.deposits, self.withdrawals), self.in_flight)

    def plus(self, other: "Sums") -> "Sums":
        """Both together."""
        return Sums(*map(add, msgspec.structs.astuple(self), msgspec.structs.astuple(other)))

    def minus(self, other: "Sums") -> "Sums":
        """This without the other."""
        return Sums(*map(subtract, msgspec.structs.astuple(self), msgspec.structs.astuple(other)))


SUMMED: Final = {
    "FundsDeposited": "deposits",
    "FundsWithdrawn": "withdrawals",
    "TransferDebited": "debits",
    "TransferCredited": "credits",
    "TransferCompensated": "compensations",
}


def sums_of(amounts: dict[str, Decimal]) -> Sums:
    """Sums from amounts by the type of the event."""
    return Sums(**{field: amounts.get(event_type, ZERO) for event_type, field in SUMMED.items()})


class Start(msgspec.Struct, frozen=True):
    """Where looks may begin: a place, and the sums of everything up to it, from one snapshot."""

    head: Head
    sums: Sums


class Lag(msgspec.Struct, frozen=True):
    """How far the worker is behind the events published; every event up to `position` had its effect."""

    position: int = 0
    event_count: int = 0
    oldest_at: datetime | None = None


class Waiting(msgspec.Struct, frozen=True):
    """An event that had no effect when its batch was passed over: it has a dead letter, or it is lost."""

    bucket: int
    event_id: UUID
    wallet_id: str
    version: int
    position: int
    published_at: datetime


class Looked(msgspec.Struct, frozen=True):
    """The last look: its moment, how far it has come, and what it summed."""

    taken_at: datetime
    seconds: float
    head: Head
    sums: Sums
    in_flight: Decimal
    lag: Lag
    is_caught_up: bool


class StoredFault(msgspec.Struct):
    """A promise that is broken: the first row, how many, when it was found, and when it was seen last."""

    table: str
    row: str
    expected: str
    found: str
    count: int
    found_at: datetime
    seen_at: datetime


class Tally(msgspec.Struct):
    """What a pass has found of one check so far."""

    noun: str
    looked_at: int = 0
    fault: StoredFault | None = None
    warnings: list[str] = []


class Passing(msgspec.Struct):
    """The pass under way; `bucket` and `head` say where it goes on, `planned_seconds` is slices with rests."""

    begun_at: datetime
    stage: str = "totals"
    bucket: int = 0
    head: Head = Head()
    slices: int = 0
    tallies: dict[str, Tally] = {}
    planned_seconds: float = 0.0


class Passed(msgspec.Struct, frozen=True):
    """The last pass that came to its end."""

    begun_at: datetime
    ended_at: datetime
    slices: int
    tallies: dict[str, Tally]
    head: Head = Head()


class Weighed(msgspec.Struct, frozen=True):
    """When the balances of all wallets were summed last, and how long that took."""

    at: datetime
    seconds: float


class State(msgspec.Struct):
    """Everything.

    `width` is how many buckets the next slice takes, `due_at` when it is due; `lost` are heads that the journal has
    no more. `waiting` are events without effect behind the lag's position, `page_events` how many events a look reads
    at once: fewer after one that took too long.
    """

    looked: Looked | None = None
    lost: list[Head] = []
    passing: Passing | None = None
    passed: Passed | None = None
    due_at: datetime | None = None
    width: int = 1
    faults: dict[str, StoredFault] = {}
    start: Start | None = None
    weighed: Weighed | None = None
    waiting: list[Waiting] = []
    page_events: int = PAGE_EVENTS_MAX

    @property
    def has_checked_nothing(self) -> bool:
        """Whether the last pass found the journal empty, and it is not any more."""
        return (
            self.passed is not None
            and self.passed.head.position == 0
            and self.looked is not None
            and self.looked.head.position > 0
        )


_decode: Final = msgspec.json.Decoder(State).decode
_encode: Final = msgspec.json.Encoder().encode


class StateUnreadable(Exception):
    """The row was written by another version, or by somebody."""


def decode_state(text: str) -> State:
    """The state as stored. Raises StateUnreadable."""
    try:
        return _decode(text)
    except msgspec.DecodeError as error:
        raise StateUnreadable(str(error)) from error


def encode_state(state: State) -> str:
    """The state as it is stored."""
    return _encode(state).decode()
