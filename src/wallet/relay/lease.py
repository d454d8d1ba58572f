"""The lease: which relay may seal and mark.

Two things guard it. The time in `lease_until` only decides when another relay may take over, which it also may when
that time is further away than a lease lasts, because the clock was put back. The token decides who writes: it grows
with each taking, and every transaction that seals or marks locks `journal_head` first and compares. So a relay that
slept past its lease finds another token, or writes as the leader it still is.

Times are PostgreSQL's, read before they are bound, so a lease can only be shorter than meant, never longer.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from wallet.postgres.connections import Connection
from wallet.postgres.statements import load_statements
from wallet.runtime.standby import Standby

# Long enough for a slow commit or a pause of the process, short enough that a killed leader is not missed.
LEASE: Final = timedelta(seconds=4)
RENEW_SECONDS: Final = 1.0

_SQL: Final = load_statements("wallet.relay", "relay.sql")


class LeaseLost(Exception):
    """Another relay has taken the lease; nothing was written."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to seal and mark, as long as the journal's head has this token."""

    holder: str
    token: int


@dataclass(frozen=True, slots=True)
class Head:
    """The last sealed position and its chain value."""

    position: int
    chain: bytes


async def take(connection: Connection, holder: str, standby: Standby | None = None) -> Lease | None:
    """Take the lease if nobody holds it, or report to `standby` who does. One or two round trips."""
    row = await connection.fetchrow(_SQL.read_lease, LEASE)
    assert row is not None, "journal_head has lost its row"
    token = None
    if row["is_free"]:
        until = row["now"] + LEASE
        token = await connection.fetchval(_SQL.take_lease, holder, until, row["token"], row["now"], LEASE)
    elif standby is not None:
        standby.report(row["holder"], row["lease_until"])
    return None if token is None else Lease(holder, token)


async def renew(connection: Connection, lease: Lease) -> None:
    """Hold the lease for its full time from now; raises LeaseLost."""
    now = await connection.fetchval(_SQL.read_clock)
    renewed = await connection.execute(_SQL.renew_lease, now + LEASE, lease.token)
    if renewed != "UPDATE 1":
        raise LeaseLost


async def release(connection: Connection, lease: Lease) -> None:
    """Let another relay take over at once; harmless when it already has."""
    now = await connection.fetchval(_SQL.read_clock)
    await connection.execute(_SQL.release_lease, now, lease.token)


async def lock_head(connection: Connection, lease: Lease) -> Head:
    """Lock the head until the transaction ends, before anything else in it; raises LeaseLost."""
    row = await connection.fetchrow(_SQL.lock_head)
    assert row is not None, "journal_head has lost its row"
    if row["token"] != lease.token:
        raise LeaseLost
    return Head(row["position"], row["chain"])
