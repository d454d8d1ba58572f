"""Replays dead letters, so that each message is handled again and takes effect once, and its dead letter is closed.
Also discards dead letters.

For each dead letter: read it → deliver the message to the handlers → mark it `replayed`. With a queue, then wait a
moment for the worker's results (see `Follower`). At the end remove the messages from the dead-letter queue (see
`remove_closed`).

- A crash or an error between two steps leaves an open dead letter whose message may have been delivered already. The
  next replay delivers it again: the inbox recognises its event, so it takes effect once.
- If two replays of one dead letter run at once, both deliver it; one marks it, the other finds it marked.
- The update that marks it compares the attempts that were read before: if the message has failed again in the meantime,
  the number is higher, and the dead letter stays open. A message that fails later opens its dead letter again.
- Dead letters are read one by one, because their bodies may be large.

Discarding closes a dead letter with a reason; it stays closed unless its message is delivered again. If the event is in
the log without its effect, the dead letter is closed only with `--force`, because it is the last trace of a missing
effect. The decision and the reads that it depends on are one transaction, in which the dead letter is locked.
"""

import time
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Final, NamedTuple
from uuid import UUID

import structlog

from wallet.dead_letters.reading import (
    DeadLetter,
    DeadLetterId,
    DeadLetterState,
    read_dead_letter,
    read_dead_letters,
    read_message,
)
from wallet.dead_letters.routes import ReplayRoute
from wallet.domain.identifiers import WalletId
from wallet.postgres.connections import Connection
from wallet.postgres.statements import load_statements
from wallet.rabbitmq.connection import BrokerUnavailable
from wallet.rabbitmq.dead_letter_queue import take_out_closed
from wallet.rabbitmq.publisher import NotPublished
from wallet.runtime.failpoints import failpoint
from wallet.runtime.loop import Backoff

PATIENCE_SECONDS: Final = 3.0
"""The longest time without a new result from the worker, in total for all dead letters of a command. A round that
brings a new result does not count.
"""
_LOOK_SECONDS_MIN: Final = 0.02
_LOOK_SECONDS_MAX: Final = 0.25
BATCH_BEFORE_EVENT_MAX: Final = timedelta(seconds=20)
"""An event's id is created a moment after its batch's id, in one transaction, which can't be open for this long."""
BATCH_AFTER_EVENT_MAX: Final = timedelta(seconds=1)
_SQL: Final = load_statements("wallet.dead_letters", "dead_letters.sql")
_MILLISECOND: Final = timedelta(milliseconds=1)
_MILLISECONDS_MAX: Final = 2**48 - 1
GROUP_SIZE: Final = 100
"""How many dead letters are published before their results are checked and reported."""
_log = structlog.get_logger()


class ReplayResult(Enum):
    """The result of a dead letter's replay."""

    TOOK_EFFECT = auto()
    HAD_EFFECT = auto()
    PUBLISHED = auto()
    FAILED_AGAIN = auto()
    WAS_REPLAYED = auto()
    WAS_DISCARDED = auto()

    @property
    def is_replayed(self) -> bool:
        """Returns whether the dead letter is replayed now, by this command or by another."""
        return self not in (ReplayResult.FAILED_AGAIN, ReplayResult.WAS_DISCARDED)


@dataclass(frozen=True, slots=True)
class ReplayedDeadLetter:
    """A dead letter of a replay, as it was last read, and its result."""

    letter: DeadLetter
    result: ReplayResult


class Follower:
    """Reads the results of published dead letters, one group after the other, with one waiting time for all."""

    def __init__(self, connection: Connection, patience_seconds: float) -> None:
        self._connection = connection
        self._patience_seconds = patience_seconds

    async def follow(self, replayed: Sequence[ReplayedDeadLetter]) -> list[ReplayedDeadLetter]:
        """Returns the same dead letters in the same order, with the results that the published ones have by now."""
        published = {
            each.letter.dead_letter_id: each.letter for each in replayed if each.result is ReplayResult.PUBLISHED
        }
        news = {news.letter.dead_letter_id: news for news in await self._wait_for_news(list(published.values()))}
        return [news.get(each.letter.dead_letter_id, each) for each in replayed]

    async def _wait_for_news(self, letters: Sequence[DeadLetter]) -> list[ReplayedDeadLetter]:
        news: list[ReplayedDeadLetter] = []
        pending = {letter.dead_letter_id: letter for letter in letters}
        backoff = Backoff(seconds_min=_LOOK_SECONDS_MIN, seconds_max=_LOOK_SECONDS_MAX)
        while pending:
            looked_at = time.monotonic()
            seen = [
                ReplayedDeadLetter(now, _result_of(pending[now.dead_letter_id], now))
                for now in await read_dead_letters(self._connection, pending)
            ]
            heard = [each for each in seen if each.result is not ReplayResult.PUBLISHED]
            news += heard
            for each in heard:
                del pending[each.letter.dead_letter_id]
            if not pending or self._patience_seconds <= 0:
                break
            if heard:
                backoff.reset()
            await backoff.wait()
            if not heard:
                self._patience_seconds -= time.monotonic() - looked_at
        return news


def _result_of(published: DeadLetter, now: DeadLetter) -> ReplayResult:
    """Returns the result of a dead letter since it was published. An event that was delivered twice leaves no trace."""
    if now.attempts > published.attempts:
        return ReplayResult.FAILED_AGAIN
    if now.took_effect_at is not None and published.took_effect_at is None:
        return ReplayResult.TOOK_EFFECT
    return ReplayResult.PUBLISHED


class WaitingEvent(NamedTuple):
    """An event in the log without its effect."""

    wallet_id: WalletId
    version: int


async def find_waiting_event(connection: Connection, letter: DeadLetter) -> WaitingEvent | None:
    """Returns an event that the dead letter may be about, if the log has it and it had no effect.

    Candidates are the event with the id in the body, the event with the id of the message, and the event at the wallet
    and version that the body names; in a forged message they differ. Events have no index by id. So an id is searched
    for among the batches that were created at the time in the event's id: both ids are UUIDv7.
    """
    message_id = await connection.fetchval(_SQL.read_message_id, letter.dead_letter_id)
    for event_id in dict.fromkeys((letter.event_id, _uuid_of(message_id))):
        made_at = 0 if event_id is None else event_id.int >> 80
        row = await connection.fetchrow(
            _SQL.find_waiting_event,
            event_id,
            letter.wallet_id,
            letter.version,
            _lowest_id_at(made_at - BATCH_BEFORE_EVENT_MAX // _MILLISECOND),
            _lowest_id_at(made_at + BATCH_AFTER_EVENT_MAX // _MILLISECOND),
        )
        if row is not None:
            return WaitingEvent(row["wallet_id"], row["version"])
    return None


def _uuid_of(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        return None


def _lowest_id_at(milliseconds: int) -> UUID:
    return UUID(int=min(max(milliseconds, 0), _MILLISECONDS_MAX) << 80)


class Replay:
    """One operator's replay of some dead letters over one route. `is_forced`: closed dead letters are replayed too."""

    def __init__(
        self,
        connection: Connection,
        route: ReplayRoute,
        *,
        actor: str,
        is_forced: bool = False,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._connection = connection
        self._route = route
        self._actor = actor
        self._is_forced = is_forced
        self._follower = Follower(connection, patience_seconds)

    async def run(self, ids: Sequence[DeadLetterId]) -> AsyncIterator[ReplayedDeadLetter]:
        """Replay each dead letter once, in this order.

        Raises NoSuchDeadLetter, BrokerUnavailable or NotPublished. The last two are raised after the results so far
        were yielded; the dead letter at which the error happened is still open, whether it was published or not.
        """
        for start in range(0, len(ids), GROUP_SIZE):
            replayed, failure = await self._replay_group(ids[start : start + GROUP_SIZE])
            for each in await self._follower.follow(replayed):
                self._log_result(each)
                yield each
            if failure is not None:
                raise failure

    async def _replay_group(self, ids: Sequence[DeadLetterId]) -> tuple[list[ReplayedDeadLetter], Exception | None]:
        replayed: list[ReplayedDeadLetter] = []
        for dead_letter_id in ids:
            try:
                replayed.append(await self._replay_one(dead_letter_id))
            except (BrokerUnavailable, NotPublished) as failure:
                return replayed, failure
        return replayed, None

    async def _replay_one(self, dead_letter_id: DeadLetterId) -> ReplayedDeadLetter:
        letter = await read_dead_letter(self._connection, dead_letter_id)
        if not letter.is_open and not self._is_forced:
            is_replayed = letter.state is DeadLetterState.REPLAYED
            return ReplayedDeadLetter(letter, ReplayResult.WAS_REPLAYED if is_replayed else ReplayResult.WAS_DISCARDED)
        # A message of which only the beginning is stored would fail again, because it is longer than any event.
        is_brought = not letter.is_too_long and await self._route.bring(
            await read_message(self._connection, dead_letter_id)
        )
        await failpoint("dlq.before_mark")
        if is_brought and await self._mark(letter):
            return ReplayedDeadLetter(letter, self._result_of_brought(letter))
        now = await read_dead_letter(self._connection, dead_letter_id)
        if not now.is_open:
            return ReplayedDeadLetter(now, ReplayResult.WAS_REPLAYED)
        await self._connection.execute(_SQL.note_failed_replay, dead_letter_id, self._actor)
        return ReplayedDeadLetter(now, ReplayResult.FAILED_AGAIN)

    async def _mark(self, letter: DeadLetter) -> bool:
        marked = await self._connection.fetchval(
            _SQL.mark_replayed, letter.dead_letter_id, letter.attempts, self._actor, self._is_forced
        )
        return marked is not None

    def _result_of_brought(self, letter: DeadLetter) -> ReplayResult:
        if not self._route.is_direct:
            return ReplayResult.PUBLISHED
        return ReplayResult.TOOK_EFFECT if letter.took_effect_at is None else ReplayResult.HAD_EFFECT

    def _log_result(self, replayed: ReplayedDeadLetter) -> None:
        letter = replayed.letter
        event_id = str(letter.event_id) if letter.event_id else None
        _log.info(
            "dead_letter_replay",
            dead_letter_id=letter.dead_letter_id,
            event_id=event_id,
            result=replayed.result.name.lower(),
            actor=self._actor,
        )


async def remove_closed(connection: Connection, rabbitmq_url: str) -> int:
    """Remove the messages of closed dead letters, including those of earlier commands. Returns how many were removed.

    Raises BrokerUnavailable.
    """

    async def are_open(digests: Collection[bytes]) -> dict[bytes, bool]:
        # A message is in the queue only after its dead letter was committed. This query runs later, so it never reports
        # an open dead letter as closed.
        rows = await connection.fetch(_SQL.are_open, list(digests))
        return {row["body_sha256"]: row["is_open"] for row in rows}

    await failpoint("dlq.before_remove")
    return await take_out_closed(rabbitmq_url, are_open, name="wallet dlq")


class DiscardResult(Enum):
    """The result of a discard."""

    NOW = "discarded"
    BEFORE = "was discarded already"
    WAS_REPLAYED = "was replayed, so there is nothing to discard"
    REFUSED = "was not discarded: its event is in the log and has had no effect"


async def discard(
    connection: Connection, dead_letter_id: DeadLetterId, *, actor: str, reason: str, is_forced: bool = False
) -> tuple[DeadLetter, DiscardResult]:
    """Close an open dead letter. Returns the dead letter as it is afterwards. Raises NoSuchDeadLetter."""
    async with connection.transaction():
        await connection.execute(_SQL.lock_dead_letter, dead_letter_id)
        letter = await read_dead_letter(connection, dead_letter_id)
        if not letter.is_open:
            was_discarded = letter.state is DeadLetterState.DISCARDED
            return letter, DiscardResult.BEFORE if was_discarded else DiscardResult.WAS_REPLAYED
        waiting = await find_waiting_event(connection, letter)
        if waiting is not None and not is_forced:
            return letter, DiscardResult.REFUSED
        await connection.execute(_SQL.mark_discarded, dead_letter_id, actor, reason)
        letter = await read_dead_letter(connection, dead_letter_id)
    lost = None if waiting is None else f"wallet {waiting.wallet_id}, version {waiting.version}"
    _log.info("dead_letter_discarded", dead_letter_id=dead_letter_id, actor=actor, reason=reason, without_effect=lost)
    return letter, DiscardResult.NOW
