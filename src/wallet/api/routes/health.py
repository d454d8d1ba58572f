"""Checks whether this process can serve: each dependency of readiness is checked by name.

Bounds: one check at a time, at most one in CACHED_SECONDS, each within CHECK_SECONDS_MAX. So frequent requests, or
requests from many clients, cost the database nothing. The broker is not checked: if it is down, the effect on
publication shows in the journal, and requests are served without it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from wallet.api.contract.problems import Code, FieldError, Refused
from wallet.api.contract.schemas import CheckResult, ReadyResponse
from wallet.postgres.connections import AnyConnection, Pool
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.postgres.migrations import missing_migrations
from wallet.queries.reading import Backlog, OldestWaiting, backlog_of, durability_faults

CACHED_SECONDS: Final = 1.0
CHECK_SECONDS_MAX: Final = 2.0
BACKLOG_SECONDS_MAX: Final = 10.0
"""How old the oldest unsealed and the oldest unpublished event may be before the state is called degraded."""

_log = structlog.get_logger("wallet.api.routes.health")


@dataclass(frozen=True, slots=True)
class Readiness:
    """The results of all checks."""

    checks: Sequence[CheckResult]

    @property
    def is_degraded(self) -> bool:
        """Whether something behind the API is behind."""
        return any(check.status == "degraded" for check in self.checks)


class WaitingSince:
    """How long the oldest batch has waited: its age by PostgreSQL's clock, or the time since it was first seen here,
    whichever is longer.

    If the clock was put back, a batch looks new; the time since it was first seen shows its real age.
    """

    def __init__(self) -> None:
        self._key: int | None = None
        self._since = 0.0

    def seconds(self, waiting: OldestWaiting, now: float) -> float:
        """Returns the age of what waits; `now` is a monotonic time."""
        if waiting.key is None:
            self._key = None
            return 0.0
        if waiting.key != self._key:
            self._key, self._since = waiting.key, now
        return max(waiting.seconds, now - self._since)


class Health:
    """Answers whether the process is ready, from a check that is at most a second old."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._checking = asyncio.Lock()
        self._readiness = Readiness(())
        self._checked_at = float("-inf")
        self._unsealed = WaitingSince()
        self._unpublished = WaitingSince()

    async def readiness(self) -> Readiness:
        """Returns the result of the latest check; a new one if that is too old."""
        loop = asyncio.get_running_loop()
        async with self._checking:
            if loop.time() - self._checked_at >= CACHED_SECONDS:
                self._readiness = Readiness(await self._check())
                self._checked_at = loop.time()
            return self._readiness

    async def _check(self) -> list[CheckResult]:
        try:
            async with asyncio.timeout(CHECK_SECONDS_MAX), self._pool.acquire() as connection:
                return await self._checks(connection)
        except DATABASE_ERRORS as error:
            # The error's text can contain hosts and users; it belongs in the log, not in an answer.
            _log.warning("database_unreachable", error=repr(error))
            return [CheckResult("database", "failed", "does not answer")]

    async def _checks(self, connection: AnyConnection) -> list[CheckResult]:
        missing = await missing_migrations(connection)
        if missing:
            return [
                CheckResult("database", "ok", "answers"),
                CheckResult("migrations", "failed", f"missing: {', '.join(missing)}; run `wallet migrate`"),
            ]
        faults = await durability_faults(connection)
        return [
            CheckResult("database", "ok", "answers"),
            CheckResult("migrations", "ok", "all applied"),
            CheckResult("durability", "failed" if faults else "ok", "; ".join(faults) or "commits are durable"),
            self._relay_check(await backlog_of(connection)),
        ]

    def _relay_check(self, backlog: Backlog) -> CheckResult:
        now = asyncio.get_running_loop().time()
        unsealed = self._unsealed.seconds(backlog.unsealed, now)
        # An unsealed batch is not published either.
        unpublished = max(unsealed, self._unpublished.seconds(backlog.unpublished, now))
        ages = f"oldest unsealed {unsealed:.1f} s, oldest unpublished {unpublished:.1f} s"
        if unsealed > BACKLOG_SECONDS_MAX:
            return CheckResult("relay", "degraded", f"events wait and no relay seals them; nothing is lost; {ages}")
        if unpublished > BACKLOG_SECONDS_MAX:
            return CheckResult("relay", "degraded", f"events wait to be published; nothing is lost; {ages}")
        return CheckResult("relay", "ok", f"events leave; {ages}")


async def ready_response(health: Health) -> ReadyResponse:
    """Returns the answer that requests can be served. Raises Refused, naming what failed."""
    readiness = await health.readiness()
    failed = [check for check in readiness.checks if check.status == "failed"]
    if failed:
        raise Refused(
            Code.NOT_READY,
            "; ".join(f"{check.name}: {check.detail}" for check in failed),
            errors=[FieldError(Code.NOT_READY, check.detail, check=check.name) for check in failed],
        )
    return ReadyResponse("degraded" if readiness.is_degraded else "ready", readiness.checks)
