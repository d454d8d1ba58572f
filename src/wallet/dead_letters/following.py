"""Looks what the worker makes of messages that were published to it again."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from wallet.dead_letters.letters import Letter, read_letters
from wallet.postgres.connections import Connection
from wallet.runtime.loop import Pace

PATIENCE_SECONDS: Final = 3.0
"""How long to wait without a sign from the worker, over all letters of a command. A sign costs nothing."""
_LOOK_SECONDS_MIN: Final = 0.02
_LOOK_SECONDS_MAX: Final = 0.25


class Fate(Enum):
    """What became of a letter that was to be replayed."""

    TOOK_EFFECT = "took effect"
    HAD_EFFECT = "had taken effect before: nothing changed"
    PUBLISHED = "published"
    FAILED_AGAIN = "failed again"
    WAS_REPLAYED = "was replayed already"
    WAS_DISCARDED = "was discarded"

    @property
    def is_replayed(self) -> bool:
        """Whether the letter counts as replayed now, by us or by another."""
        return self not in (Fate.FAILED_AGAIN, Fate.WAS_DISCARDED)


@dataclass(frozen=True, slots=True)
class Replayed:
    """A letter that was to be replayed, as it was read last, and what became of it."""

    letter: Letter
    fate: Fate


class Follower:
    """Follows one group of published letters after the other, with one patience for all."""

    def __init__(self, connection: Connection, patience_seconds: float) -> None:
        self._connection = connection
        self._patience_seconds = patience_seconds

    async def follow(self, replayed: Sequence[Replayed]) -> list[Replayed]:
        """The same, in the same order, with news of the published ones."""
        published = {result.letter.letter_id: result.letter for result in replayed if result.fate is Fate.PUBLISHED}
        news = {news.letter.letter_id: news for news in await self._wait_for_news(list(published.values()))}
        return [news.get(result.letter.letter_id, result) for result in replayed]

    async def _wait_for_news(self, letters: Sequence[Letter]) -> list[Replayed]:
        news: list[Replayed] = []
        pending = {letter.letter_id: letter for letter in letters}
        pace = Pace(seconds_min=_LOOK_SECONDS_MIN, seconds_max=_LOOK_SECONDS_MAX)
        while pending:
            looked_at = time.monotonic()
            seen = [(now, _fate(pending[now.letter_id], now)) for now in await read_letters(self._connection, pending)]
            heard = [Replayed(now, fate) for now, fate in seen if fate is not Fate.PUBLISHED]
            news += heard
            for result in heard:
                del pending[result.letter.letter_id]
            if not pending or self._patience_seconds <= 0:
                break
            if heard:
                pace.reset()
            await pace.wait()
            if not heard:
                self._patience_seconds -= time.monotonic() - looked_at
        return news


def _fate(published: Letter, now: Letter) -> Fate:
    """What can be said of a letter since it was published. That an event came a second time leaves no trace."""
    if now.attempts > published.attempts:
        return Fate.FAILED_AGAIN
    if now.took_effect_at is not None and published.took_effect_at is None:
        return Fate.TOOK_EFFECT
    return Fate.PUBLISHED
