"""Replays letters: each message goes to the handlers again, takes effect once, and its letter is closed.

For each letter: read → bring the message to the handlers → mark it `replayed`. Then, over a queue, look for a moment
what the worker made of it (see following). At last the messages leave the dead-letter queue (see removal).

- A crash or an error between two steps leaves an open letter whose message may have been brought already. The next
  replay brings it again: the inbox knows its event, so it takes effect once.
- Two replays of one letter at once both bring it; one marks it, the other finds it marked.
- The mark compares the attempts read before: had the message failed again meanwhile, they are more, and the letter
  stays open. A message that fails later opens its letter again.
- Letters are read one by one, as their bodies may be large.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Final

import structlog

from wallet.dead_letters.following import PATIENCE_SECONDS, Fate, Follower, Replayed
from wallet.dead_letters.letters import Letter, LetterId, State, read_letter, read_message
from wallet.dead_letters.routes import Route
from wallet.postgres.connections import Connection
from wallet.postgres.statements import load_statements
from wallet.rabbitmq.connection import BrokerUnavailable
from wallet.rabbitmq.publisher import NotPublished
from wallet.runtime.failpoints import failpoint

GROUP_SIZE: Final = 100
"""So many letters are published before what became of them is looked for, and told."""

_STATEMENTS = load_statements("wallet.dead_letters", "dead_letters.sql")
_MARK_REPLAYED: Final[str] = _STATEMENTS.mark_replayed
_NOTE_FAILED_REPLAY: Final[str] = _STATEMENTS.note_failed_replay

_log = structlog.get_logger()


class Replay:
    """One operator's replay of some letters over one route. `is_forced`: of closed letters too."""

    def __init__(
        self,
        connection: Connection,
        route: Route,
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

    async def run(self, ids: Sequence[LetterId]) -> AsyncIterator[Replayed]:
        """Replay each letter once, in this order.

        Raises NoSuchLetter, or, after giving what was replayed before, BrokerUnavailable or NotPublished: then the
        letter at which it happened is still open, published or not.
        """
        for start in range(0, len(ids), GROUP_SIZE):
            replayed, failure = await self._replay_group(ids[start : start + GROUP_SIZE])
            for result in await self._follower.follow(replayed):
                self._tell(result)
                yield result
            if failure is not None:
                raise failure

    async def _replay_group(self, ids: Sequence[LetterId]) -> tuple[list[Replayed], Exception | None]:
        replayed: list[Replayed] = []
        for letter_id in ids:
            try:
                replayed.append(await self._replay_one(letter_id))
            except (BrokerUnavailable, NotPublished) as failure:
                return replayed, failure
        return replayed, None

    async def _replay_one(self, letter_id: LetterId) -> Replayed:
        letter = await read_letter(self._connection, letter_id)
        if not letter.is_open and not self._is_forced:
            return Replayed(letter, Fate.WAS_REPLAYED if letter.state is State.REPLAYED else Fate.WAS_DISCARDED)
        # A message of which only the beginning is stored would fail again: it is longer than any event.
        is_brought = not letter.is_too_long and await self._route.bring(await read_message(self._connection, letter_id))
        await failpoint("dlq.before_mark")
        if is_brought and await self._mark(letter):
            return Replayed(letter, self._fate_of_brought(letter))
        now = await read_letter(self._connection, letter_id)
        if not now.is_open:
            return Replayed(now, Fate.WAS_REPLAYED)
        await self._connection.execute(_NOTE_FAILED_REPLAY, letter_id, self._actor)
        return Replayed(now, Fate.FAILED_AGAIN)

    async def _mark(self, letter: Letter) -> bool:
        marked = await self._connection.fetchval(
            _MARK_REPLAYED, letter.letter_id, letter.attempts, self._actor, self._is_forced
        )
        return marked is not None

    def _fate_of_brought(self, letter: Letter) -> Fate:
        if not self._route.is_direct:
            return Fate.PUBLISHED
        return Fate.TOOK_EFFECT if letter.took_effect_at is None else Fate.HAD_EFFECT

    def _tell(self, result: Replayed) -> None:
        letter = result.letter
        event_id = str(letter.event_id) if letter.event_id else None
        fate = result.fate.name.lower()
        _log.info("dead_letter_replay", letter_id=letter.letter_id, event_id=event_id, fate=fate, actor=self._actor)
