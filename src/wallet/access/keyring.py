"""The API keys of a process: all of them, in memory, indexed by digest. A wrong key costs no query.

The version is read every second, and all keys after a change, so a revocation takes effect within REFRESH_SECONDS and
one read. If the version can't be read for STALE_SECONDS, no key can be trusted any more. When a key was last used is
stored once a minute; a stop loses the last minute of it.

A process that has seen a key never serves requests without one again, even if it is connected to a database that has no
keys, for example an old backup.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from time import monotonic
from typing import Final

import structlog
from asyncpg import UndefinedTableError

from wallet.access.principal import Principal
from wallet.access.store import SQL, ApiKey, list_keys
from wallet.access.tokens import KeyId, digest_of
from wallet.domain.money import Value
from wallet.postgres.connections import Connection
from wallet.postgres.errors import DATABASE_ERRORS
from wallet.postgres.session import Session

REFRESH_SECONDS: Final = 1.0
READ_SECONDS_MAX: Final = 2.0
STALE_SECONDS: Final = 30.0
NOTE_USE_SECONDS: Final = 60.0

_log = structlog.get_logger()


class _Known(Value, frozen=True):
    """A key that is not revoked, and the monotonic time at which it expires: a changed clock revives no key."""

    principal: Principal
    expires_at: float


class Keyring:
    """The keys as they were read last. `find` needs no I/O."""

    def __init__(self) -> None:
        self.has_keys = False
        """Whether a key was ever created, including those that are revoked."""
        self._by_digest: dict[bytes, _Known] = {}
        self._version: int | None = None
        self._read_at = float("-inf")
        self._used: dict[KeyId, datetime] = {}

    @property
    def is_known(self) -> bool:
        """Returns whether the keys were read within STALE_SECONDS."""
        return monotonic() - self._read_at < STALE_SECONDS

    def find(self, text: str) -> Principal | None:
        """Returns the principal of a valid key, else None."""
        known = self._by_digest.get(digest_of(text))
        if known is None or known.expires_at <= monotonic():
            return None
        self._used[known.principal.key_id] = datetime.now(UTC)
        return known.principal

    async def refresh(self, connection: Connection) -> None:
        """Read the keys if they changed. Raises DATABASE_ERRORS.

        A database that does not have the tables yet, before its migration, has no key.
        """
        began_at = monotonic()
        try:
            row = await connection.fetchrow(SQL.read_version)
        except UndefinedTableError:
            self._keep([], began_at)
            self._version = None
        else:
            assert row is not None, "the only row of api_keys_version is missing"
            if row["version"] != self._version:
                self._keep(await list_keys(connection), began_at)
                self._version = row["version"]
        self._read_at = began_at

    async def note_use(self, connection: Connection) -> None:
        """Store when keys were used since the last call. Raises DATABASE_ERRORS."""
        used, self._used = self._used, {}
        if used:
            await connection.execute(SQL.note_use, list(used), list(used.values()))

    def _keep(self, keys: list[ApiKey], began_at: float) -> None:
        self.has_keys |= bool(keys)
        self._by_digest = {
            key.secret_sha256: _Known(key.principal, began_at + key.seconds_left)
            for key in keys
            if key.state == "active"
        }


@asynccontextmanager
async def kept_current(keyring: Keyring, session: Session, stop: asyncio.Event) -> AsyncIterator[None]:
    """Try to read the keys, then refresh them inside the block. The database may be unavailable at any time.

    If a bug ends the refreshing, `stop` is set, and the error is raised at the end of the block: a process must not run
    on with keys that it can't refresh.
    """
    refresher = _Refresher(keyring, session)
    await refresher.refresh()
    refreshing = asyncio.create_task(refresher.run(), name="API keys")
    refreshing.add_done_callback(lambda _task: stop.set())
    try:
        yield
    finally:
        refreshing.cancel()
        with suppress(asyncio.CancelledError):
            await refreshing


class _Refresher:
    """Refreshes the keys of one process. Logs when that fails for the first time, and when it succeeds again."""

    def __init__(self, keyring: Keyring, session: Session) -> None:
        self._keyring = keyring
        self._session = session
        self._noted_at = monotonic()
        self._is_failing = False

    async def run(self) -> None:
        """Refresh every second, until cancelled."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await self.refresh()

    async def refresh(self) -> None:
        """Try to refresh the keys. If that fails, the keys stay as they are until they are stale."""
        try:
            async with asyncio.timeout(READ_SECONDS_MAX):
                connection = await self._session.connection()
                await self._keyring.refresh(connection)
                if monotonic() - self._noted_at >= NOTE_USE_SECONDS:
                    self._noted_at = monotonic()
                    await self._keyring.note_use(connection)
        except DATABASE_ERRORS as error:
            self._session.drop()
            if not self._is_failing:
                _log.warning("keys_not_refreshed", error=repr(error))
            self._is_failing = True
        else:
            if self._is_failing:
                _log.info("keys_refreshed_again")
            self._is_failing = False
