-- The statements on API keys.

-- name: read_version
select version from api_keys_version

-- name: raise_version
update api_keys_version set version = version + 1

-- name: read_keys
select /* key_columns */
from api_keys k
order by k.created_at, k.key_id

-- name: insert_key
insert into api_keys (key_id, secret_sha256, name, is_test, scopes, prefixes, rate, burst, created_at, created_by,
    expires_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, now(), $9, now() + $10::interval)

-- name: insert_successor
-- A key with the permissions of another one ($3), and as long a life.
insert into api_keys (key_id, secret_sha256, name, is_test, scopes, prefixes, rate, burst, created_at, created_by,
    expires_at, replaces)
select $1, $2, k.name, k.is_test, k.scopes, k.prefixes, k.rate, k.burst, now(), $4,
    now() + (k.expires_at - k.created_at), k.key_id
from api_keys k
where k.key_id = $3

-- name: read_successor
select k.key_id from api_keys k where k.replaces = $1

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
-- Several apis note the use of the same keys: the rows are locked in one order, so that none waits for another in a
-- circle.
with used as (
    select k.key_id, u.used_at
    from unnest($1::text[], $2::timestamptz[]) as u (key_id, used_at)
    join api_keys k on k.key_id = u.key_id
    where k.last_used_at is null or k.last_used_at < u.used_at
    order by k.key_id
    for no key update of k
)
update api_keys k set last_used_at = u.used_at from used u where k.key_id = u.key_id
