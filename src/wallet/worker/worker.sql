-- The statements of the worker, in the order in which a group sends them. They take arrays and return rows, so the cost
-- is per group, not per event. Arrays that insert or lock are sorted by primary key, so that workers which change the
-- same wallets wait for each other in one order and never deadlock.

-- name: read_events
-- Ordered by version, which only the primary key supports: an index that merely begins with the wallet would read the
-- whole history of a wallet for each of its events.
select e.wallet_id, e.version, e.event_id, e.type, e.schema_version, e.amount, e.occurred_at,
    e.payload ->> 'toWalletId' as to_wallet_id
from unnest($1::smallint[], $2::text[], $3::bigint[]) as k (bucket, wallet_id, version)
cross join lateral (
    select h.wallet_id, h.version, h.event_id, h.type, h.schema_version, h.amount, h.occurred_at, h.payload
    from events h
    where h.bucket = k.bucket and h.wallet_id = k.wallet_id and h.version between k.version and k.version
    order by h.version
    limit 1
) as e

-- name: enter_inbox
insert into processed_events as known (bucket, event_id, status, attempts, processed_at)
select k.bucket, k.event_id, 'success', 1, now()
from unnest($1::text::smallint[], $2::uuid[]) as k (bucket, event_id)
on conflict (bucket, event_id) do update
set status = 'success', error_message = null, attempts = known.attempts + 1, processed_at = excluded.processed_at
where known.status = 'failed'
returning event_id

-- name: add_totals
insert into wallet_stats as known (
    bucket, wallet_id, total_deposited, total_withdrawn, total_transferred_out, total_transferred_in, last_activity_at,
    created_at, updated_at
)
select k.bucket, k.wallet_id, k.deposited, k.withdrawn, k.transferred_out, k.transferred_in, k.last_activity_at,
    now(), now()
from unnest(
    $1::text::smallint[], $2::text::text[], $3::text::numeric[], $4::text::numeric[], $5::text::numeric[],
    $6::text::numeric[], $7::timestamptz[]
) as k (bucket, wallet_id, deposited, withdrawn, transferred_out, transferred_in, last_activity_at)
on conflict (bucket, wallet_id) do update
set total_deposited = known.total_deposited + excluded.total_deposited,
    total_withdrawn = known.total_withdrawn + excluded.total_withdrawn,
    total_transferred_out = known.total_transferred_out + excluded.total_transferred_out,
    total_transferred_in = known.total_transferred_in + excluded.total_transferred_in,
    last_activity_at = greatest(known.last_activity_at, excluded.last_activity_at),
    updated_at = greatest(known.updated_at, excluded.updated_at)

-- name: read_nth_latest_withdrawals
select k.event_id, (
    select e.occurred_at
    from events e
    where e.bucket = k.bucket and e.wallet_id = k.wallet_id and e.type = 'FundsWithdrawn'
        and e.occurred_at <= k.occurred_at
    order by e.occurred_at desc
    offset $5::integer - 1
    limit 1
) as nth_latest_at
from unnest($1::smallint[], $2::text[], $3::uuid[], $4::timestamptz[]) as k (bucket, wallet_id, event_id, occurred_at)

-- name: insert_alerts
insert into fraud_alerts (bucket, wallet_id, rule, event_id, reason, occurred_at)
select k.bucket, k.wallet_id, k.rule, k.event_id, k.reason, k.occurred_at
from unnest($1::text::smallint[], $2::text::text[], $3::text::text[], $4::uuid[], $5::text::text[], $6::timestamptz[])
    as k (bucket, wallet_id, rule, event_id, reason, occurred_at)
on conflict (bucket, wallet_id, rule, event_id) do nothing
returning rule, event_id

-- name: mark_suspicious
update wallet_stats w
set suspicious = true, suspicious_reason = earliest.reason
from (
    select k.bucket, k.wallet_id, (
        select a.reason
        from fraud_alerts a
        where a.bucket = k.bucket and a.wallet_id = k.wallet_id
        order by a.occurred_at, a.event_id, a.rule
        limit 1
    ) as reason
    from unnest($1::smallint[], $2::text[]) as k (bucket, wallet_id)
) as earliest
where w.bucket = earliest.bucket and w.wallet_id = earliest.wallet_id
    and w.suspicious_reason is distinct from earliest.reason

-- name: insert_dead_letter
-- A closed dead letter is opened again. Attempts only grow, so they show whether it failed again since it was read.
insert into dead_letters as known (
    event_id, type, wallet_id, version, body, body_sha256, headers, kind, error, attempts, body_bytes, history,
    created_at, updated_at
)
values (
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11,
    jsonb_build_array(jsonb_build_object('what', 'opened', 'at', now(), 'error', $9::text, 'attempts', $10::integer)),
    now(), now()
)
on conflict (body_sha256) do update
set state = 'open', kind = excluded.kind, error = excluded.error, attempts = known.attempts + excluded.attempts,
    actor = null, reason = null, updated_at = excluded.updated_at,
    history = case when known.state = 'open' then known.history else known.history || excluded.history end

-- name: mark_failed
insert into processed_events as known (bucket, event_id, status, error_message, attempts, processed_at)
select k.bucket, k.event_id, 'failed', k.error_message, k.attempts, now()
from unnest($1::smallint[], $2::uuid[], $3::text[], $4::integer[]) as k (bucket, event_id, error_message, attempts)
on conflict (bucket, event_id) do update
set error_message = excluded.error_message, attempts = known.attempts + excluded.attempts,
    processed_at = excluded.processed_at
where known.status = 'failed'

-- name: move_checkpoint
-- Returns no row for a holder whose token is no longer the newest.
update worker_checkpoint
set position = greatest(position, $2), followed_position = greatest(followed_position, $3),
    lease_until = now() + $4::interval
where only_row and token = $1
returning position

-- name: pass_by_broker
-- Skips the batches after a position ($1) that a broker confirmed, at most $2 of them. Returns the position of the last
-- one, and whether the batch after it was published without a broker. A relay without a broker sets published_at to
-- sealed_at, one with a broker to a later time: see relay.sql.
with next as (
    select j.position, row_number() over (order by j.position) as place, j.published_at > j.sealed_at as is_confirmed
    from journal j
    where j.position > $1
    order by j.position
    limit $2
), run as (
    select coalesce(min(n.place) filter (where n.is_confirmed is not true or n.position <> $1 + n.place) - 1,
        count(*)) as length
    from next n
)
select $1 + r.length as position, exists (
    select from next n where n.place = r.length + 1 and n.position = $1 + n.place and not n.is_confirmed
) as has_unconfirmed
from run r

-- name: read_journal
select j.position, j.batch_id, j.event_count, j.published_at > j.sealed_at as is_confirmed
from journal j
where j.position > $1 and j.published_at is not null
order by j.position
limit $2

-- name: read_batches
select k.position, e.event_id, e.type, e.schema_version, e.occurred_at, e.wallet_id, e.version, e.amount,
    e.payload::text as payload_json, e.payload ->> 'toWalletId' as to_wallet_id
from unnest($1::uuid[], $2::bigint[]) as k (batch_id, position)
join events e on e.batch_id = k.batch_id
order by k.position, e.ordinal
