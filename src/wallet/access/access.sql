-- The statements on API keys.

-- name: read_version
select version, (select count(*) from api_keys) as key_count from api_keys_version

-- name: raise_version
update api_keys_version set version = version + 1

-- name: read_keys
select /* key_columns */
from api_keys k
order by k.created_at, k.key_id

-- name: insert_key
insert into api_keys (key_id, secret_sha256, name, scopes, prefixes, rate, burst, created_at, created_by, expires_at,
    replaces)
values ($1, $2, $3, $4, $5, $6, $7, now(), $8, $9, $10)

-- name: lock_key
select /* key_columns */
from api_keys k
where k.key_id = $1
for update

-- name: revoke_key
update api_keys set revoked_at = now(), revoked_by = $2 where key_id = $1 and revoked_at is null

-- name: expire_key
update api_keys set expires_at = least(expires_at, now() + $2::interval) where key_id = $1

-- name: note_use
update api_keys k
set last_used_at = u.used_at
from unnest($1::text[], $2::timestamptz[]) as u (key_id, used_at)
where k.key_id = u.key_id and (k.last_used_at is null or k.last_used_at < u.used_at)
