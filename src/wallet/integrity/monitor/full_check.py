"""Checks everything in slices, each on a snapshot of its own, so that no snapshot stays open for long.

| stage | content of a slice | proves |
|---|---|---|
| totals | everything, as two sums | I1; a starting point for incremental checks |
| wallets | some buckets | I2, I3, I4, no orphans (I9), the inbox (I6), effects (I17) |
| journal | the next EVENTS_READ events along the chain; at its end the head and the unsealed batches | I5, I9 |
| transfers | everything, with joins | I7, and the remembered heads (I9) |
| trail | everything, with a join | I18 |
| projections | everything, as one stream | I8 |

A slice of the wallets grows while it is quick and shrinks when it is slow. Transfers, trail and projections join
wallets of all buckets with each other, so they are one slice each. The progress is saved in the state after
each slice: a restart continues there.
"""

import time
from datetime import timedelta
from typing import Final, assert_never

import structlog

from wallet.domain.identifiers import BUCKET_COUNT
from wallet.integrity.checks.conservation import read_totals
from wallet.integrity.checks.delivery import prove_delivery
from wallet.integrity.checks.histories import prove_histories
from wallet.integrity.checks.journal import JournalWalk
from wallet.integrity.checks.orphans import prove_no_strays
from wallet.integrity.checks.projections import prove_projections
from wallet.integrity.checks.trail import prove_trail
from wallet.integrity.checks.transfers import prove_transfers
from wallet.integrity.findings import Check, Finding, Unobserved
from wallet.integrity.monitor import faults
from wallet.integrity.monitor.incremental_check import find_lost
from wallet.integrity.monitor.state import SQL as MONITOR_SQL
from wallet.integrity.monitor.state import FullCheckProgress, JournalHead, MonitorState, Stage, Start, sums_of
from wallet.integrity.snapshot import Buckets, Snapshot, damage_finding

EVENTS_READ: Final = 20_000
SLICE_SECONDS_MIN: Final = 0.25
SLICE_SECONDS_MAX: Final = 1.0
"""How long a slice of the wallets should take: shorter ones grow, longer ones shrink."""

_log = structlog.get_logger()


async def check_slice(snapshot: Snapshot, state: MonitorState) -> None:
    """Check the next slice, start a new full check if none is in progress, and store the findings."""
    progress = state.full_progress or FullCheckProgress(snapshot.taken_at)
    if progress.stage is Stage.OF_ANOTHER_VERSION:
        progress = FullCheckProgress(snapshot.taken_at)
    state.full_progress = progress
    begun = time.monotonic()
    findings = await _prove_slice(snapshot, state, progress)
    progress.slices += 1
    faults.add_to_tallies(progress, findings, snapshot.taken_at)
    faults.enter(state, findings, snapshot.taken_at)
    if progress.stage is Stage.ENDED:
        ended_at = snapshot.taken_at + timedelta(seconds=time.monotonic() - begun)
        faults.conclude(state, progress, ended_at)
        seconds = round((ended_at - progress.begun_at) / timedelta(seconds=1), 1)
        _log.debug("integrity_full_check_ended", seconds=seconds, slices=progress.slices)


def progress_of(progress: FullCheckProgress, end: int) -> float:
    """Returns the completed share of a full check, from 0 to 1; `end` is the last position of the journal."""
    wallets, journal, transfers, trail, projections = 0.02, 0.42, 0.80, 0.85, 0.90
    match progress.stage:
        case Stage.TOTALS | Stage.OF_ANOTHER_VERSION:
            return 0.0
        case Stage.WALLETS:
            return wallets + (journal - wallets) * progress.bucket / BUCKET_COUNT
        case Stage.JOURNAL:
            return journal + (transfers - journal) * min(progress.head.position / max(end, 1), 1.0)
        case Stage.TRANSFERS:
            return transfers
        case Stage.TRAIL:
            return trail
        case Stage.PROJECTIONS:
            return projections
        case Stage.ENDED:
            return 1.0
        case other:
            assert_never(other)


async def _prove_slice(snapshot: Snapshot, state: MonitorState, progress: FullCheckProgress) -> list[Finding]:
    """Prove one slice of the stage, and set the stage of the next slice."""
    match progress.stage:
        case Stage.TOTALS:
            return await _prove_totals(snapshot, state, progress)
        case Stage.WALLETS:
            return await _prove_wallets(snapshot, state, progress)
        case Stage.JOURNAL:
            return await _prove_journal(snapshot, progress)
        case Stage.TRANSFERS:
            return await _prove_transfers(snapshot, state, progress)
        case Stage.TRAIL:
            return await _prove_trail(snapshot, progress)
        case Stage.PROJECTIONS:
            return await _prove_projections(snapshot, progress)
        case Stage.ENDED | Stage.OF_ANOTHER_VERSION:
            raise AssertionError(f"a full check at the stage {progress.stage!r} was continued")
        case other:
            assert_never(other)


async def _prove_totals(snapshot: Snapshot, state: MonitorState, progress: FullCheckProgress) -> list[Finding]:
    totals = await read_totals(snapshot)
    end = await snapshot.row(MONITOR_SQL.last_sealed)
    # Events without a position are not covered by any incremental check; they are few.
    unsealed = {row["type"]: row["amount"] for row in await snapshot.rows(MONITOR_SQL.unsealed_sums, None)}
    head = JournalHead() if end is None else JournalHead(end["position"], end["chain"])
    state.start = Start(head, sums_of(totals.amounts).minus(sums_of(unsealed)))
    # The first width follows from the number of events, later ones from the duration: what was quick on small books may
    # be slow on large ones.
    width = EVENTS_READ * BUCKET_COUNT // max(totals.event_count, 1)
    state.width = max(1, min(width, BUCKET_COUNT))
    progress.stage = Stage.WALLETS
    return [totals.judge(), damage_finding(None, checked_count=totals.event_count)]


async def _prove_wallets(snapshot: Snapshot, state: MonitorState, progress: FullCheckProgress) -> list[Finding]:
    begun = time.monotonic()
    buckets = Buckets(progress.bucket, min(progress.bucket + state.width, BUCKET_COUNT) - 1)
    findings = [
        *await prove_histories(snapshot, Unobserved(), buckets),
        *await prove_no_strays(snapshot, buckets),
        *await prove_delivery(snapshot, buckets, warns_of_dead_letters=False),
    ]
    progress.bucket = buckets.last + 1
    if progress.bucket == BUCKET_COUNT:
        progress.stage = Stage.JOURNAL
    seconds = time.monotonic() - begun
    if seconds < SLICE_SECONDS_MIN:
        state.width = min(state.width * 2, BUCKET_COUNT)
    elif seconds > SLICE_SECONDS_MAX:
        state.width = max(state.width // 2, 1)
    return findings


async def _prove_journal(snapshot: Snapshot, progress: FullCheckProgress) -> list[Finding]:
    walk = JournalWalk(Unobserved(), progress.head.position, progress.head.chain)
    if await walk.follow(snapshot, EVENTS_READ):
        await walk.end(snapshot)
        progress.stage = Stage.TRANSFERS
    progress.head = JournalHead(walk.chain.position, walk.chain.value)
    return walk.findings


async def _prove_transfers(snapshot: Snapshot, state: MonitorState, progress: FullCheckProgress) -> list[Finding]:
    heads, known = Finding(Check.HEADS, "head"), list(state.lost)
    findings = await prove_transfers(snapshot, ends=False)
    lost = await find_lost(snapshot, known, heads)
    state.lost = [head for head in state.lost if head in lost or head not in known]
    progress.stage = Stage.TRAIL
    return [*findings, heads]


async def _prove_trail(snapshot: Snapshot, progress: FullCheckProgress) -> list[Finding]:
    findings = await prove_trail(snapshot)
    progress.stage = Stage.PROJECTIONS
    return findings


async def _prove_projections(snapshot: Snapshot, progress: FullCheckProgress) -> list[Finding]:
    findings = await prove_projections(snapshot, Unobserved())
    progress.stage = Stage.ENDED
    return findings
