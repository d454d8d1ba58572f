"""The state of the integrity monitor, stored in one row, so that it survives restarts and changes of the holder of its
lease.

A field that is added later has a default, so that the row of an earlier version can be read. No field changes its
meaning.
"""

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final, Self
from uuid import UUID

import msgspec
import structlog

from wallet.domain.events import EVENT_TYPES, Effect
from wallet.domain.money import ZERO, add, subtract
from wallet.postgres.connections import Connection
from wallet.postgres.lease import Lease, LeaseTable
from wallet.postgres.statements import load_statements
from wallet.runtime.started import Standby
from wallet.wire.digest import GENESIS

PAGE_EVENTS_MAX: Final = 2_000
INCREMENTAL: Final = "incremental"
FULL: Final = "full"
"""The two kinds of check, as `MonitorState.failed` names them."""
_FIELD_OF_EFFECT: Final = {
    Effect(balance=1, outside=-1): "deposits",
    Effect(balance=-1, outside=1): "withdrawals",
    Effect(balance=-1, in_flight=1): "debits",
    # `compensations` contains sums of earlier versions, which counted them separately.
    Effect(balance=1, in_flight=-1): "credits",
}
SUMMED: Final = {name: _FIELD_OF_EFFECT[kind.effect] for name, kind in EVENT_TYPES.items() if any(kind.effect)}
"""Event type → the sum that its amounts are added to."""
_encode: Final = msgspec.json.Encoder().encode
MONITOR: Final = LeaseTable("auditor", timedelta(seconds=20))
"""The length of four incremental checks: a slow check does not lose the lease, and after a crash another monitor checks
within 30 s.
"""
SQL: Final = load_statements("wallet.integrity.monitor", "monitor.sql")
_log = structlog.get_logger()


class JournalHead(msgspec.Struct, frozen=True):
    """A position in the journal, and the chain up to it."""

    position: int = 0
    chain: bytes = GENESIS


class Sums(msgspec.Struct, frozen=True):
    """How much all events up to a position in the journal have moved."""

    deposits: Decimal = ZERO
    withdrawals: Decimal = ZERO
    debits: Decimal = ZERO
    credits: Decimal = ZERO
    compensations: Decimal = ZERO

    @property
    def in_flight(self) -> Decimal:
        """The amount debited from senders and neither credited nor returned yet."""
        return subtract(self.debits, add(self.credits, self.compensations))

    @property
    def balances(self) -> Decimal:
        """Returns the sum that the balances of all wallets must have."""
        return subtract(subtract(self.deposits, self.withdrawals), self.in_flight)

    def plus(self, other: "Sums") -> "Sums":
        """Returns the sum of both."""
        return Sums(*map(add, msgspec.structs.astuple(self), msgspec.structs.astuple(other)))

    def minus(self, other: "Sums") -> "Sums":
        """Returns the difference."""
        return Sums(*map(subtract, msgspec.structs.astuple(self), msgspec.structs.astuple(other)))


def sums_of(amounts: dict[str, Decimal]) -> Sums:
    """Returns the sums for amounts by event type."""
    sums: dict[str, Decimal] = {}
    for event_type, field in SUMMED.items():
        sums[field] = add(sums.get(field, ZERO), amounts.get(event_type, ZERO))
    return Sums(**sums)


class Start(msgspec.Struct, frozen=True):
    """Where incremental checks begin: a position, and the sums of everything up to it, from one snapshot."""

    head: JournalHead
    sums: Sums


class Lag(msgspec.Struct, frozen=True):
    """How far the worker is behind the published events; every event up to `position` had its effect."""

    position: int = 0
    event_count: int = 0
    oldest_at: datetime | None = None


class EventWithoutEffect(msgspec.Struct, frozen=True):
    """An event that had no effect when its batch was checked: it has a dead letter, or it is lost."""

    bucket: int
    event_id: UUID
    wallet_id: str
    version: int
    position: int
    published_at: datetime


class IncrementalResult(msgspec.Struct, frozen=True):
    """The result of the last incremental check: its time, how far it came, and the sums up to there."""

    taken_at: datetime
    seconds: float
    head: JournalHead
    sums: Sums
    in_flight: Decimal
    lag: Lag
    is_caught_up: bool


class StoredFault(msgspec.Struct):
    """A broken promise: its first row, the number of rows, when it was found, and when it was last seen."""

    table: str
    row: str
    expected: str
    found: str
    count: int
    found_at: datetime
    seen_at: datetime


class Tally(msgspec.Struct):
    """What a full check has found so far for one promise."""

    noun: str
    checked_count: int = msgspec.field(default=0, name="looked_at")
    fault: StoredFault | None = None
    warnings: list[str] = []


class Stage(StrEnum):
    """The stages of a full check, in their order."""

    TOTALS = "totals"
    WALLETS = "wallets"
    JOURNAL = "journal"
    TRANSFERS = "transfers"
    TRAIL = "trail"
    PROJECTIONS = "projections"
    ENDED = ""
    OF_ANOTHER_VERSION = "?"

    @classmethod
    def _missing_(cls, value: object) -> "Stage":
        return cls.OF_ANOTHER_VERSION


class FullCheckProgress(msgspec.Struct):
    """The full check in progress. It continues at `bucket` or `head`; `planned_seconds` includes the pauses."""

    begun_at: datetime
    stage: Stage = Stage.TOTALS
    bucket: int = 0
    head: JournalHead = JournalHead()
    slices: int = 0
    tallies: dict[str, Tally] = {}
    planned_seconds: float = 0.0


class FullCheckResult(msgspec.Struct, frozen=True):
    """The last full check that was completed."""

    begun_at: datetime
    ended_at: datetime
    slices: int
    tallies: dict[str, Tally]
    head: JournalHead = JournalHead()


class BalanceSumCheck(msgspec.Struct, frozen=True):
    """When the balances of all wallets were summed last, and how long that took."""

    at: datetime
    seconds: float


class CheckFailure(msgspec.Struct, frozen=True):
    """A check that has failed since `at`, PostgreSQL's time, and the error of the last attempt."""

    at: datetime
    error: str


class MonitorState(msgspec.Struct):
    """The monitor's saved state. `failed` contains the kinds of check that fail now.

    The next slice of the full check has `width` buckets and is due at `due_at`. `lost` are heads that are no longer in
    the journal. `waiting` are events before the lag's position that have no effect. An incremental check reads
    `page_events` events at once: fewer after a check that took too long. Where a stored name differs, it is that of
    previous versions: during an upgrade they read the same row.
    """

    incremental: IncrementalResult | None = msgspec.field(default=None, name="looked")
    lost: list[JournalHead] = []
    full_progress: FullCheckProgress | None = msgspec.field(default=None, name="passing")
    full_result: FullCheckResult | None = msgspec.field(default=None, name="passed")
    due_at: datetime | None = None
    width: int = 1
    faults: dict[str, StoredFault] = {}
    start: Start | None = None
    balance_sum: BalanceSumCheck | None = msgspec.field(default=None, name="weighed")
    waiting: list[EventWithoutEffect] = []
    page_events: int = PAGE_EVENTS_MAX
    failed: dict[str, CheckFailure] = {}

    @property
    def has_checked_nothing(self) -> bool:
        """Returns whether the last full check found the journal empty, which it no longer is."""
        return (
            self.full_result is not None
            and self.full_result.head.position == 0
            and self.incremental is not None
            and self.incremental.head.position > 0
        )


_decode: Final = msgspec.json.Decoder(MonitorState).decode


class StateUnreadable(Exception):
    """The row was not written by this version."""


def decode_state(text: str) -> MonitorState:
    """Returns the stored state. Raises StateUnreadable."""
    try:
        return _decode(text)
    except msgspec.DecodeError as error:
        raise StateUnreadable(str(error)) from error


def encode_state(state: MonitorState) -> str:
    """Returns the text that is stored."""
    return _encode(state).decode()


class MonitorLease:
    """The lease on the monitor's row, and the state in that row."""

    def __init__(self, lease: Lease, state: MonitorState) -> None:
        self._lease = lease
        self.state = state
        self.full_check_wanted = asyncio.Event()
        self._saving = asyncio.Lock()

    @classmethod
    async def take(cls, connection: Connection, holder: str, standby: Standby | None = None) -> Self | None:
        """Take the lease if it is free, or report to `standby` who has it."""
        lease = await MONITOR.take(connection, holder, standby)
        if lease is None:
            return None
        try:
            state = decode_state(lease.row["state"])
        except StateUnreadable as error:
            # The next full check covers everything, so only the remembered state is lost.
            _log.error("integrity_state_unreadable", error=str(error))
            state = MonitorState()
        _log.info("integrity_lease_taken", holder=holder, token=lease.token)
        return cls(lease, state)

    async def save(self, connection: Connection) -> None:
        """Write the state and renew the lease. Raises LeaseLost."""
        # Only one save at a time, so that no older state overwrites a newer one.
        async with self._saving:
            saved = await connection.fetchval(
                SQL.save_state, self._lease.token, encode_state(self.state), MONITOR.length
            )
        if saved is None:
            raise self._lease.lost()

    async def release(self, connection: Connection) -> None:
        """Let another monitor take over now. Safe to call if it already has."""
        await self._lease.release(connection)
        _log.info("integrity_lease_released", token=self._lease.token)
