-- The statements of the operator's commands. None of them stays in a transaction while it waits for a broker: each
-- statement is its own transaction. The inbox row of a dead letter's event is searched for in the wallet's bucket, or
-- in all 64 buckets if the dead letter names no wallet.

-- name: dead_letter_ids
-- A null limit means no limit.
select d.id
from dead_letters d
where d.state = 'open' or $1::boolean
order by d.id
limit $2::bigint

-- name: count_dead_letters
select count(*)
from dead_letters d
where d.state = 'open' or $1::boolean

-- name: read_dead_letters
-- Bodies are not read: their length is known without reading them.
select d.id, d.state, d.kind, d.type, d.event_id, d.wallet_id, d.version, d.error, d.attempts, d.actor, d.reason,
    d.created_at, d.updated_at, coalesce(d.body_bytes, octet_length(d.body)) as body_bytes, inbox.took_effect_at
from dead_letters d
left join lateral (
    select p.processed_at as took_effect_at
    from processed_events p
    where p.bucket = any (
        case when d.wallet_id is null then array(select generate_series(0, 63))::smallint[]
            else array[wallet_bucket(d.wallet_id)]
        end
    ) and p.event_id = d.event_id and p.status = 'success'
    limit 1
) as inbox on true
where d.id = any ($1::bigint[])
order by d.id

-- name: read_message
-- Reads no more of the body than requested.
select substring(d.body from 1 for $2::integer) as body, d.headers as properties, d.history
from dead_letters d
where d.id = $1

-- name: mark_replayed
-- Attempts only grow: a different number means that the message failed again since it was read, and the dead letter
-- stays open.
update dead_letters d
set state = 'replayed', actor = $3::text, reason = null, updated_at = now(),
    history = d.history || jsonb_build_object('what', 'replayed', 'at', now(), 'actor', $3::text)
where d.id = $1 and d.attempts = $2 and (d.state <> 'replayed' or $4::boolean)
returning d.id

-- name: note_failed_replay
update dead_letters d
set history = d.history || jsonb_build_object(
    'what', 'replay failed', 'at', now(), 'actor', $2::text, 'error', d.error, 'attempts', d.attempts
)
where d.id = $1 and d.state = 'open'

-- name: mark_discarded
update dead_letters d
set state = 'discarded', actor = $2::text, reason = $3::text, updated_at = now(),
    history = d.history || jsonb_build_object(
        'what', 'discarded', 'at', now(), 'actor', $2::text, 'reason', $3::text
    )
where d.id = $1 and d.state = 'open'
returning d.id

-- name: are_open
select d.body_sha256, d.state = 'open' as is_open
from dead_letters d
where d.body_sha256 = any ($1::bytea[])

-- name: read_event_at
select e.event_id, e.type, e.schema_version, e.occurred_at, e.wallet_id, e.version, e.payload::text as payload_json,
    j.position
from events e
left join journal j on j.batch_id = e.batch_id
where e.bucket = $1 and e.wallet_id = $2 and e.version = $3

-- name: read_event_named
select e.event_id, e.type, e.schema_version, e.occurred_at, e.wallet_id, e.version, e.payload::text as payload_json,
    j.position
from events e
left join journal j on j.batch_id = e.batch_id
where e.bucket = $1 and e.wallet_id = $2 and e.event_id = $3
limit 1

-- name: lock_dead_letter
-- Locks the row, so that in the meantime no other command closes the dead letter and no worker opens it again.
select d.id
from dead_letters d
where d.id = $1
for update

-- name: read_message_id
select headers ->> 'messageId' from dead_letters where id = $1

-- name: find_waiting_event
select e.wallet_id, e.version
from (
    select h.bucket, h.wallet_id, h.version, h.event_id
    from events h
    where h.bucket = wallet_bucket($2::text) and h.wallet_id = $2::text and h.version = $3::bigint
    union all
    select i.bucket, i.wallet_id, i.version, i.event_id
    from journal j
    cross join lateral (
        select b.bucket, b.wallet_id, b.version, b.event_id
        from events b
        where b.batch_id = j.batch_id
        offset 0
    ) as i
    where j.batch_id between $4::uuid and $5::uuid and i.event_id = $1::uuid
) as e
where not exists (
    select from processed_events p
    where p.bucket = e.bucket and p.event_id = e.event_id and p.status = 'success'
)
limit 1
