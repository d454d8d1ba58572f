"""Measures how far the worker is behind, and finds the events it has lost, over either transport, a few at each check.

The check remembers a position up to which every event either had its effect or needs no more waiting. The position
advances over batches for which that is true, so each check reads only new batches and those that still wait. An event
without effect in a batch that was skipped (it has an open dead letter, or later events had their effects) is remembered
individually. Each check queries it again until it has its effect; it is lost as soon as
`wallet.integrity.checks.delivery` would report it as lost.

Bounds: a page of events at a time, and SECONDS_MAX in total; beyond that the number of events is a lower bound. At most
WAITING_MAX events are remembered; the full check finds lost events beyond that.
"""

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from asyncpg import Record

from wallet.integrity.checks.delivery import EFFECT_WITHIN, HandledUpTo, LostEvent, add_lost, read_handled
from wallet.integrity.checks.journal import pages
from wallet.integrity.findings import Check, Finding
from wallet.integrity.monitor.state import SQL, EventWithoutEffect, Lag
from wallet.integrity.snapshot import Snapshot

SECONDS_MAX: Final = 0.5
WAITING_MAX: Final = 1_000
FAR_AHEAD: Final = timedelta(hours=1)
NAMED_MAX: Final = 200
"""The most names in the stored state; the full check reports more."""


@dataclass(slots=True)
class Followed:
    """What an incremental check found about the worker."""

    lag: Lag
    waiting: list[EventWithoutEffect]
    effects: Finding = field(default_factory=lambda: Finding(Check.EFFECTS, "event"))


async def follow_worker(
    snapshot: Snapshot, position: int, waiting: list[EventWithoutEffect], page_events: int | None = None
) -> Followed:
    """Continue after a position up to which no event waits. Count the later events that had no effect."""
    begun = time.monotonic()
    handled = await read_handled(snapshot, EFFECT_WITHIN)
    last, is_whole, count = position, True, 0
    oldest: list[datetime] = []
    skipped: list[int] = []
    async for page in pages(snapshot, position, page_events):
        for row in await snapshot.rows(SQL.unprocessed, last, page[-1]["position"]):
            is_whole = is_whole and _is_decided(row, handled, snapshot.taken_at)
            if is_whole:
                position = row["position"]
                if row["missing_count"]:
                    skipped.append(position)
            elif row["is_published"] and row["event_count"]:
                count += row["event_count"]
                oldest.append(row["oldest_at"])
        last = page[-1]["position"]
        if time.monotonic() - begun > SECONDS_MAX:
            break
    new = [] if not skipped else await snapshot.rows(SQL.missing_events, skipped, WAITING_MAX)
    remembered = [*waiting, *(EventWithoutEffect(**row) for row in new)][-WAITING_MAX:]
    followed = Followed(Lag(position, count, min(oldest, default=None)), remembered)
    await _ask_about_waiting(snapshot, followed, handled)
    return followed


def _is_decided(batch: Record, handled: HandledUpTo, now: datetime) -> bool:
    """Returns whether a batch needs no more waiting: its events have effects or dead letters, or later ones were
    handled.
    """
    if not batch["is_published"]:
        return False
    if batch["event_count"] == 0:
        return True
    if handled.position is None or batch["position"] >= handled.position or _is_recent(batch["published_at"], now):
        return False
    is_followed = handled.followed_from is not None and batch["position"] > handled.followed_from
    return not (batch["is_in_journal_only"] and is_followed)


async def _ask_about_waiting(snapshot: Snapshot, followed: Followed, handled: HandledUpTo) -> None:
    if not followed.waiting:
        return
    keys = [each.bucket for each in followed.waiting], [each.event_id for each in followed.waiting]
    rows = {row["event_id"]: row for row in await snapshot.rows(SQL.waiting_events, *keys)}
    followed.waiting = [each for each in followed.waiting if not rows[each.event_id]["has_effect"]]
    lost = [each for each in followed.waiting if _is_lost(each, rows[each.event_id], handled, snapshot.taken_at)]
    if lost:
        named = [LostEvent(each.event_id, each.wallet_id, each.version) for each in lost[:NAMED_MAX]]
        add_lost(followed.effects, named, len(lost))


def _is_lost(event: EventWithoutEffect, letters: Record, handled: HandledUpTo, now: datetime) -> bool:
    replayed_at = letters["replayed_at"]
    if letters["is_open"] or _is_recent(event.published_at, now):
        return False
    if letters["is_discarded"] and replayed_at is None:
        return True
    if handled.position is None or handled.published_at is None:
        return False
    return event.position < handled.position and (replayed_at is None or replayed_at < handled.published_at)


def _is_recent(moment: datetime, now: datetime) -> bool:
    """Returns whether a time is less than a minute ago. A time far ahead was written before the clock was put back."""
    return now - EFFECT_WITHIN < moment < now + FAR_AHEAD
