-- Every statement that writes times takes them as parameters: PostgreSQL's clock is read first, by another statement.
-- The times of a batch show how it was published, to programs of every version. Without a broker, published_at equals
-- sealed_at; with a broker that confirmed every event, published_at is later. A worker that follows the journal handles
-- the batches of the first kind.

-- name: read_head
select position, chain, clock_timestamp() as now
from journal_head

-- name: lock_head
select token, position, chain
from journal_head
for update

-- name: has_unsealed
select exists (select from journal where position is null)

-- name: select_unsealed
select batch_id, digest, clock_timestamp() as now
from journal
where position is null
order by seq
limit $1

-- name: seal_batches
update journal
set position = sealed.position, chain = sealed.chain, sealed_at = $4, published_at = $5
from unnest($1::uuid[], $2::bigint[], $3::bytea[]) as sealed (batch_id, position, chain)
where journal.batch_id = sealed.batch_id and journal.position is null

-- name: move_head
update journal_head
set position = $1, chain = $2
where token = $3

-- name: select_unpublished
select batch_id, position, event_count
from journal
where position is not null and published_at is null and batch_id <> all ($1::uuid[])
order by position
limit $2

-- name: select_events
select batch_id, event_id, type, schema_version, occurred_at, wallet_id, version, payload::text as payload_json
from events
where batch_id = any ($1::uuid[])
order by ordinal

-- name: read_clock
select clock_timestamp()

-- name: mark_published
-- published_at is later than sealed_at even if the clock was set back in between.
update journal
set published_at = greatest($1, sealed_at + interval '1 microsecond')
where batch_id = any ($2::uuid[]) and published_at is null

-- name: mark_as_sealed
update journal
set published_at = sealed_at
where batch_id = any ($1::uuid[]) and published_at is null
