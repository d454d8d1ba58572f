"""Checks every invariant of the books that the database's own contents can prove, on one snapshot of a running system.

| pass | proves | how |
|---|---|---|
| conservation | I1 | two sums |
| wallets | I2, I3, I4 | one stream of all events in wallet order, folded by the domain's own function |
| journal | I5, I9 | batch by batch along the chain: events, outcomes, digest, chain |
| orphans | I9 | anti-joins from events and operations to the journal |
| transfers | I7 | joins of transfers with their events, outcomes and credits |
| audit trail | I18 | a join of the outcomes with the rows of their requests, and the records of pruning |
| delivery | I6, I17 | anti-joins between the log and the worker's inbox |
| projections | I8 | statistics compared with the fold of the processed events |
| exported heads | I9 | each line of the file compared with the journal |

Bounds: one connection, a page of batches or some thousand rows in memory, sorts on the server's disk.

Not detected: an owner of the database who rewrites the log, the journal and its chain so that all agree, unless
heads exported earlier exist outside that owner's reach. Values stored only once are not checked either: a
wallet's status, the text of a transfer's last error, and the parts of the audit trail that trail.py lists.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from wallet.integrity.checks.conservation import prove_conservation
from wallet.integrity.checks.delivery import EFFECT_WITHIN, prove_delivery
from wallet.integrity.checks.heads import ExportedHeads, prove_heads
from wallet.integrity.checks.histories import prove_histories
from wallet.integrity.checks.journal import prove_journal
from wallet.integrity.checks.orphans import prove_no_strays
from wallet.integrity.checks.projections import prove_projections
from wallet.integrity.checks.trail import prove_trail
from wallet.integrity.checks.transfers import prove_transfers
from wallet.integrity.findings import Check, Finding, Observer, Pass
from wallet.integrity.snapshot import Snapshot, damage_finding, open_snapshot
from wallet.postgres.errors import DATABASE_ERRORS, Cause, cause_of

Prove = Callable[[Snapshot], Awaitable[list[Finding]]]


@dataclass(frozen=True, slots=True)
class Proof:
    """The results of all passes, and the time for which they are true."""

    taken_at: datetime
    passes: list[Pass]
    seconds: float

    @property
    def findings(self) -> list[Finding]:
        """Returns the findings of all passes, in order."""
        return [finding for each in self.passes for finding in each.findings]

    @property
    def unproved(self) -> list[Check]:
        """Returns the checks that damaged files prevented; exported heads are checked only if they are given."""
        return [check for check in Check if check not in {*(each.check for each in self.findings), Check.HEADS}]

    @property
    def is_clean(self) -> bool:
        """Returns whether no promise is broken."""
        return not any(finding.fault_count for finding in self.findings)


async def verify(
    dsn: str, observer: Observer, heads: ExportedHeads | None = None, effect_within: timedelta = EFFECT_WITHIN
) -> Proof:
    """Run every pass, even if an earlier one found faults. An event younger than `effect_within` may still be in
    transit.

    A page that PostgreSQL can't read is a fault and ends the proof, because its transaction can't continue. Raises
    NotMigrated, or one of the other DATABASE_ERRORS; then nothing is proved.
    """
    started, passes = time.monotonic(), list[Pass]()
    async with open_snapshot(dsn) as snapshot:

        async def run(title: str, unit: str, total: int, prove: Prove) -> list[Finding]:
            begun = time.monotonic()
            observer.begin(title, unit, total)
            passes.append(Pass(await prove(snapshot), time.monotonic() - begun))
            observer.end(passes[-1])
            return passes[-1].findings

        async def prove_all() -> int:
            [sums] = await run("conservation", "", 0, prove_conservation)
            await run("wallets", "events", sums.checked_count, partial(prove_histories, observer=observer))
            await run("journal", "events", sums.checked_count, partial(prove_journal, observer=observer))
            await run("nothing outside", "", 0, prove_no_strays)
            await run("transfers", "", 0, prove_transfers)
            await run("audit trail", "", 0, prove_trail)
            await run("delivery", "", 0, partial(prove_delivery, effect_within=effect_within))
            await run("projections", "sums", 0, partial(prove_projections, observer=observer))
            if heads is not None:
                await run("exported heads", "", 0, partial(prove_heads, exported=heads))
            return sums.checked_count

        try:
            readable = damage_finding(None, checked_count=await prove_all())
        except DATABASE_ERRORS as error:
            if cause_of(error) is not Cause.DAMAGED:
                raise
            readable = damage_finding(error)
        passes.append(Pass([readable], 0.0))
        return Proof(snapshot.taken_at, passes, time.monotonic() - started)
