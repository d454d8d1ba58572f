"""A loop that runs rounds of work on its own connection, and reconnects after an outage of the database."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum, auto, unique
from typing import Final

import asyncpg
import structlog

from wallet.postgres.connections import Connection
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.postgres.session import NotMigrated, Session
from wallet.runtime.loop import Backoff

POLL_SECONDS_MIN: Final = 0.005
POLL_SECONDS_MAX: Final = 0.2
_RETRY_SECONDS_MIN: Final = 0.05
_RETRY_SECONDS_MAX: Final = 2.0

log = structlog.get_logger()


@unique
class Work(Enum):
    """How much work a round found. It decides when the next round begins."""

    NONE = auto()
    """There was none: wait twice as long as the last time."""
    SOME = auto()
    """There was some: wait the shortest time, so that new work is handled together in one round."""
    MORE = auto()
    """The round was full: begin the next one at once."""


class PollingLoop:
    """Runs rounds of work until stopped. It retries during an outage of the database, however long that lasts."""

    def __init__(self, dsn: str, *, name: str, stop: asyncio.Event) -> None:
        self._name = name
        self._stop = stop
        self._session = Session(dsn, application_name=f"wallet {name}")
        self._is_down = False
        self._is_finished = False
        self._poll = Backoff(seconds_min=POLL_SECONDS_MIN, seconds_max=POLL_SECONDS_MAX)
        self._retry = Backoff(seconds_min=_RETRY_SECONDS_MIN, seconds_max=_RETRY_SECONDS_MAX)

    async def run(self, work_round: Callable[[Connection], Awaitable[Work]]) -> None:
        """Run rounds until the stop or `finish`. Raises every error that is not a database error."""
        self._is_finished = False
        while not (self._stop.is_set() or self._is_finished):
            try:
                work = await work_round(await self.connection())
            except (*DATABASE_ERRORS, NotMigrated) as error:
                self._on_failure(error)
                await self._retry.wait()
                continue
            self._on_success()
            if work is not Work.NONE:
                self._poll.reset()
            if work is not Work.MORE and not self._is_finished:
                await self._poll.wait()

    def finish(self) -> None:
        """Make the round in progress the last one."""
        self._is_finished = True

    async def connection(self) -> Connection:
        """Returns the connection, and opens it if needed. Raises NotMigrated, or one of DATABASE_ERRORS."""
        return await self._session.connection()

    def wake(self) -> None:
        """End the wait, because there may be work or a stop."""
        self._poll.wake()
        if self._stop.is_set():
            self._retry.wake()

    async def close(self) -> None:
        """Close the connection, by force if it does not close soon."""
        await self._session.close()

    def _on_failure(self, error: Exception) -> None:
        self._session.drop()
        if not self._is_down:
            self._is_down = True
            sqlstate = error.sqlstate if isinstance(error, asyncpg.PostgresError) else None
            log.warning("database_unavailable", task=self._name, error=repr(error), sqlstate=sqlstate)

    def _on_success(self) -> None:
        self._retry.reset()
        if self._is_down:
            self._is_down = False
            log.info("database_back", task=self._name)
