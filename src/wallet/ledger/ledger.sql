-- The statements of the write path, in the order in which a batch sends them.
-- Each statement takes arrays and returns rows, so that its cost is per batch, not per command. Every array is sorted
-- by primary key. Arrays are passed as text (wallet.postgres.statements), because the driver encodes lists slowly.

-- name: insert_wallets
insert into wallets (bucket, wallet_id, currency, balance, version)
select k.bucket, k.wallet_id, $3, 0, 0
from unnest($1::text::smallint[], $2::text::text[]) as k (bucket, wallet_id)
order by k.bucket, k.wallet_id
on conflict do nothing
returning wallet_id

-- name: lock_wallets
select w.wallet_id, w.currency, w.balance, w.version, w.last_event_at
from unnest($1::text::smallint[], $2::text::text[]) as k (bucket, wallet_id)
join wallets w on w.bucket = k.bucket and w.wallet_id = k.wallet_id
order by w.bucket, w.wallet_id
for update of w

-- name: lock_free_wallets
select w.wallet_id, w.currency, w.balance, w.version, w.last_event_at
from unnest($1::text::smallint[], $2::text::text[]) as k (bucket, wallet_id)
join wallets w on w.bucket = k.bucket and w.wallet_id = k.wallet_id
order by w.bucket, w.wallet_id
for update of w skip locked

-- name: existing_wallets
select w.wallet_id
from unnest($1::text::smallint[], $2::text::text[]) as k (bucket, wallet_id)
join wallets w on w.bucket = k.bucket and w.wallet_id = k.wallet_id

-- name: load_operations
-- Only stepwise transfers have the status debited. Without any, the subquery reads an index that is empty.
select clock.now, clock.has_debited, o.wallet_id, o.request_id, o.fingerprint, o.state, o.status, o.response,
    o.api_audit_id
from (
    select clock_timestamp() as now, exists (select from transfers t where t.status = 'debited') as has_debited
) as clock
left join (
    select o.wallet_id, o.request_id, o.fingerprint, o.state, o.status, o.response, o.api_audit_id
    from unnest($1::text::smallint[], $2::text::text[], $3::text::text[]) as k (bucket, wallet_id, request_id)
    join operations o on o.bucket = k.bucket and o.wallet_id = k.wallet_id and o.request_id = k.request_id
) as o on true

-- name: load_refundable
-- Reads all debited transfers (by the index of the unfinished ones), never the whole history of a wallet.
with debited as materialized (
    select t.from_wallet_id, t.amount from transfers t where t.status = 'debited'
)
select d.from_wallet_id, sum(d.amount) as amount
from debited d
where d.from_wallet_id = any($1::text::text[])
group by d.from_wallet_id

-- name: load_credits
select c.transfer_id, c.outcome, c.reason, c.event_version, c.balance_after
from unnest($1::text::smallint[], $2::text::text[], $3::uuid[]) as k (bucket, to_wallet_id, transfer_id)
join transfer_credits c
    on c.bucket = k.bucket and c.to_wallet_id = k.to_wallet_id and c.transfer_id = k.transfer_id

-- name: load_unfinished
select t.transfer_id
from unnest($1::text::smallint[], $2::text::text[], $3::uuid[]) as k (bucket, from_wallet_id, transfer_id)
join transfers t
    on t.bucket = k.bucket and t.from_wallet_id = k.from_wallet_id and t.transfer_id = k.transfer_id
where t.status = 'debited'

-- name: insert_operations
-- The keys were read while the wallets were locked, and were not stored. A key that is stored now is a conflict
-- (wallet.postgres.writing).
insert into operations (
    bucket, wallet_id, request_id, kind, fingerprint, state, success, status, refusal, response, api_audit_id,
    batch_id
)
select k.bucket, k.wallet_id, k.request_id, k.kind, k.fingerprint, k.state, k.success, k.status, k.refusal,
    k.response, k.api_audit_id, $12
from unnest(
    $1::text::smallint[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::text[],
    $6::text::text[], $7::text::boolean[], $8::text::smallint[], $9::text::text[], $10::bytea[],
    $11::uuid[]
) as k (
    bucket, wallet_id, request_id, kind, fingerprint, state, success, status, refusal, response, api_audit_id
)

-- name: complete_operations
update operations o
set state = 'final', success = k.success, status = k.status, refusal = k.refusal, response = k.response,
    batch_id = $8
from unnest(
    $1::text::smallint[], $2::text::text[], $3::text::text[], $4::text::boolean[], $5::text::smallint[],
    $6::text::text[], $7::bytea[]
)
    as k (bucket, wallet_id, request_id, success, status, refusal, response)
where o.bucket = k.bucket and o.wallet_id = k.wallet_id and o.request_id = k.request_id and o.state = 'pending'

-- name: insert_events
insert into events (
    bucket, wallet_id, version, event_id, type, schema_version, amount, balance_after, payload, transfer_id,
    batch_id, ordinal, api_audit_id, occurred_at
)
select k.bucket, k.wallet_id, k.version, k.event_id, k.type, $13, k.amount, k.balance_after, k.payload,
    k.transfer_id, $14, k.ordinal, k.api_audit_id, k.occurred_at
from unnest(
    $1::text::smallint[], $2::text::text[], $3::text::bigint[], $4::uuid[], $5::text::text[],
    $6::timestamptz[], $7::text::numeric[], $8::text::numeric[], $9::uuid[], $10::uuid[],
    $11::jsonb[], $12::text::integer[]
) as k (
    bucket, wallet_id, version, event_id, type, occurred_at, amount, balance_after, transfer_id, api_audit_id,
    payload, ordinal
)

-- name: insert_transfers
insert into transfers (
    bucket, from_wallet_id, transfer_id, to_wallet_id, amount, currency, status, last_error, request_id,
    api_audit_id, created_at, updated_at
)
select k.bucket, k.from_wallet_id, k.transfer_id, k.to_wallet_id, k.amount, k.currency, k.status, k.last_error,
    k.request_id, k.api_audit_id, $11, $11
from unnest(
    $1::text::smallint[], $2::text::text[], $3::uuid[], $4::text::text[], $5::text::numeric[],
    $6::text::text[], $7::text::text[], $8::text::text[], $9::text::text[], $10::uuid[]
) as k (
    bucket, from_wallet_id, transfer_id, to_wallet_id, amount, currency, status, last_error, request_id, api_audit_id
)

-- name: end_transfers
update transfers t
set status = k.status, last_error = k.last_error, updated_at = $6
from unnest($1::text::smallint[], $2::text::text[], $3::uuid[], $4::text::text[], $5::text::text[])
    as k (bucket, from_wallet_id, transfer_id, status, last_error)
where t.bucket = k.bucket and t.from_wallet_id = k.from_wallet_id and t.transfer_id = k.transfer_id
    and t.status = 'debited'

-- name: insert_credits
insert into transfer_credits (
    bucket, to_wallet_id, transfer_id, outcome, reason, event_version, balance_after, decided_at
)
select k.bucket, k.to_wallet_id, k.transfer_id, k.outcome, k.reason, k.event_version, k.balance_after, $8
from unnest(
    $1::text::smallint[], $2::text::text[], $3::uuid[], $4::text::text[], $5::text::text[],
    $6::text::bigint[], $7::text::numeric[]
) as k (bucket, to_wallet_id, transfer_id, outcome, reason, event_version, balance_after)

-- name: update_wallets
update wallets w
set currency = k.currency, balance = k.balance, version = k.version, last_event_at = k.last_event_at
from unnest(
    $1::text::text[], $2::text::text[], $3::text::numeric[], $4::text::bigint[], $5::timestamptz[],
    $6::text::smallint[], $7::text::bigint[]
) as k (wallet_id, currency, balance, version, last_event_at, bucket, locked_version)
where w.bucket = k.bucket and w.wallet_id = k.wallet_id and w.version = k.locked_version

-- name: delete_unmade_wallets
delete from wallets w
using unnest($1::text::smallint[], $2::text::text[]) as k (bucket, wallet_id)
where w.bucket = k.bucket and w.wallet_id = k.wallet_id and w.version = 0

-- name: insert_journal_row
insert into journal (batch_id, event_count, digest) values ($1, $2, $3)

-- name: stuck_transfers
-- Reads the transfers after the last one of the previous page. The condition on updated_at alone follows from the one
-- on both columns; it is there so that the index is used.
select t.transfer_id, t.from_wallet_id, t.to_wallet_id, t.amount, t.currency, t.request_id, t.api_audit_id,
    t.updated_at
from transfers t
-- A time that is far in the future was written before the clock was set back.
where t.status = 'debited' and (t.updated_at < now() - $1::interval or t.updated_at > now() + $1::interval)
    and t.updated_at >= $2 and (t.updated_at, t.transfer_id) > ($2, $3)
order by t.updated_at, t.transfer_id
limit $4

-- name: still_unfinished
-- A wallet counts as locked if its row exists and can't be locked now. The locks taken here end with the statement.
select t.transfer_id, t.from_wallet_id, t.to_wallet_id, t.amount, t.currency, t.request_id, t.api_audit_id,
    sender.is_free is null
    or (receiver.is_free is null and exists (
        select from wallets w where w.bucket = wallet_bucket(t.to_wallet_id) and w.wallet_id = t.to_wallet_id
    )) as is_locked
from unnest($1::text[], $2::uuid[]) as k (from_wallet_id, transfer_id)
join transfers t
    on t.bucket = wallet_bucket(k.from_wallet_id) and t.from_wallet_id = k.from_wallet_id
    and t.transfer_id = k.transfer_id
left join lateral (
    select true as is_free from wallets w
    where w.bucket = t.bucket and w.wallet_id = t.from_wallet_id
    for update skip locked
) as sender on true
left join lateral (
    select true as is_free from wallets w
    where w.bucket = wallet_bucket(t.to_wallet_id) and w.wallet_id = t.to_wallet_id
    for update skip locked
) as receiver on true
where t.status = 'debited'

-- name: pending_transfer
select t.transfer_id, t.from_wallet_id, t.to_wallet_id, t.amount, t.currency, t.request_id, t.api_audit_id
from transfers t
where t.bucket = $1 and t.from_wallet_id = $2 and t.request_id = $3
