"""The API keys of a process: all of them, in memory, indexed by digest. A wrong key costs no query.

The version is read every second, and all keys after a change, so a revocation takes effect within REFRESH_SECONDS and
one read. If the version can't be read for STALE_SECONDS, no key can be trusted any more. When a key was last used is
stored once a minute.
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic, time
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
    """A key that is not revoked, and the time in seconds since 1970 at which it expires."""

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
        self._clock_ahead_seconds = 0.0
        self._used: dict[KeyId, datetime] = {}

    @property
    def is_known(self) -> bool:
        """Returns whether the keys were read within STALE_SECONDS."""
        return monotonic() - self._read_at < STALE_SECONDS

    def find(self, text: str) -> Principal | None:
        """Returns the principal of a valid key, else None."""
        known = self._by_digest.get(digest_of(text))
        if known is None or known.expires_at <= time() + self._clock_ahead_seconds:
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
            self._keep([])
            self.has_keys, self._version, self._read_at = False, None, began_at
            return
        assert row is not None, "the only row of api_keys_version is missing"
        if row["version"] != self._version:
            self._keep(await list_keys(connection))
            self.has_keys = row["key_count"] > 0
            self._version = row["version"]
        self._read_at = began_at

    async def note_use(self, connection: Connection) -> None:
        """Store when keys were used since the last call. Raises DATABASE_ERRORS."""
        used, self._used = self._used, {}
        if used:
            await connection.execute(SQL.note_use, list(used), list(used.values()))

    def _keep(self, keys: list[ApiKey]) -> None:
        self._by_digest = {
            key.secret_sha256: _Known(
                key.principal, float("inf") if key.expires_at is None else key.expires_at.timestamp()
            )
            for key in keys
            if key.state == "active"
        }
        if keys:
            self._clock_ahead_seconds = keys[0].now.timestamp() - time()


async def keep_current(keyring: Keyring, session: Session) -> None:
    """Refresh the keys until cancelled. The database may be unavailable at any time."""
    noted_at = monotonic()
    while True:
        await refresh_once(keyring, session)
        if monotonic() - noted_at >= NOTE_USE_SECONDS:
            noted_at = monotonic()
            with suppress(*DATABASE_ERRORS):
                async with asyncio.timeout(READ_SECONDS_MAX):
                    await keyring.note_use(await session.connection())
        await asyncio.sleep(REFRESH_SECONDS)


async def refresh_once(keyring: Keyring, session: Session) -> None:
    """Try to refresh the keys. If that fails, the keys stay as they are."""
    try:
        async with asyncio.timeout(READ_SECONDS_MAX):
            await keyring.refresh(await session.connection())
    except DATABASE_ERRORS as error:
        session.drop()
        _log.warning("keys_not_refreshed", error=repr(error))
