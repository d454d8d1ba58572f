"""Creates, lists, revokes and rotates API keys. Each change increases the version that the apis watch."""

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Final

import structlog

from wallet.access.principal import Principal, RateLimit, Scope
from wallet.access.tokens import KeyId, Token, new_token
from wallet.postgres.connections import Connection
from wallet.postgres.statements import load_statements


class NoSuchKey(Exception):
    """There is no API key with this id; `wallet key list` shows all."""


class CannotRotate(Exception):
    """The API key is not valid any more, or it was rotated before."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A row of api_keys, with PostgreSQL's time when it was read."""

    key_id: KeyId
    secret_sha256: bytes
    name: str
    is_test: bool
    scopes: list[str]
    prefixes: list[str]
    rate: float | None
    burst: int | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    replaces: KeyId | None
    last_used_at: datetime | None
    now: datetime

    @property
    def state(self) -> str:
        """Returns `active`, `revoked` or `expired`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= self.now else "active"

    @property
    def seconds_left(self) -> float:
        """Returns how long after its reading the key expires; infinity if it does not."""
        return float("inf") if self.expires_at is None else (self.expires_at - self.now).total_seconds()

    @property
    def principal(self) -> Principal:
        """Returns what the key may do. A scope that only a newer version knows is ignored."""
        scopes = frozenset(Scope(scope) for scope in self.scopes if scope in set(Scope))
        limit = None if self.rate is None or self.burst is None else RateLimit(self.rate, self.burst)
        return Principal(self.key_id, scopes, tuple(self.prefixes), limit)


_log = structlog.get_logger()
_COLUMNS: Final = ", ".join(f"k.{field.name}" for field in fields(ApiKey) if field.name != "now")
SQL: Final = load_statements("wallet.access", "access.sql", key_columns=f"{_COLUMNS}, clock_timestamp() as now")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """The description of a key to create. `lifetime` is None for a key that does not expire."""

    name: str
    scopes: tuple[Scope, ...]
    prefixes: tuple[str, ...] = ()
    limit: RateLimit | None = None
    lifetime: timedelta | None = None
    is_test: bool = False


async def create_key(connection: Connection, new: NewKey, *, actor: str) -> Token:
    """Store a new key. Returns its text, which is stored nowhere."""
    token = new_token(is_test=new.is_test)
    async with connection.transaction():
        await connection.execute(
            SQL.insert_key,
            token.key_id,
            token.digest,
            new.name,
            new.is_test,
            sorted(new.scopes),
            list(new.prefixes),
            new.limit and new.limit.rate,
            new.limit and new.limit.burst,
            actor,
            new.lifetime,
        )
        await connection.execute(SQL.raise_version)
    _log.info("api_key_created", key_id=token.key_id, scopes=sorted(new.scopes), prefixes=new.prefixes, actor=actor)
    return token


async def list_keys(connection: Connection) -> list[ApiKey]:
    """Returns every key, oldest first."""
    return [ApiKey(**row) for row in await connection.fetch(SQL.read_keys)]


async def revoke_key(connection: Connection, key_id: KeyId, *, actor: str) -> ApiKey:
    """Revoke a key. Returns the key as it was before. Raises NoSuchKey."""
    async with connection.transaction():
        key = await _lock(connection, key_id)
        await connection.execute(SQL.revoke_key, key_id, actor)
        await connection.execute(SQL.raise_version)
    _log.info("api_key_revoked", key_id=key_id, actor=actor)
    return key


async def rotate_key(connection: Connection, key_id: KeyId, *, grace: timedelta, actor: str) -> tuple[ApiKey, Token]:
    """Create a key with the same permissions; the old one is valid for `grace` more.

    Returns the old key and the text of the new one. Raises NoSuchKey or CannotRotate.
    """
    async with connection.transaction():
        key = await _lock(connection, key_id)
        if key.state != "active":
            raise CannotRotate(f"The API key {key_id} is {key.state}, so it can't be rotated; create another one.")
        successor_id = await connection.fetchval(SQL.read_successor, key_id)
        if successor_id is not None:
            raise CannotRotate(f"The API key {key_id} can't be rotated twice; rotate its successor {successor_id}.")
        token = new_token(is_test=key.is_test)
        await connection.execute(SQL.insert_successor, token.key_id, token.digest, key_id, actor)
        await connection.execute(SQL.expire_key, key_id, grace)
        await connection.execute(SQL.raise_version)
    _log.info("api_key_rotated", key_id=key_id, successor_id=token.key_id, actor=actor)
    return key, token


async def _lock(connection: Connection, key_id: KeyId) -> ApiKey:
    row = await connection.fetchrow(SQL.lock_key, key_id)
    if row is None:
        raise NoSuchKey(f"There is no API key {key_id!r}; `wallet key list` shows all.")
    return ApiKey(**row)
