-- name: save_state
-- Renews the lease. Returns no row for a holder whose token is no longer the newest.
update auditor
set state = $2::jsonb, lease_until = now() + $3::interval
where only_row and token = $1
returning token

-- name: read_state
-- Reads the monitor's stored state, and the values that can be queried at any time: each by an index, and bounded.
select clock_timestamp() as now, a.state::text as state,
    h.position as head_position, u.oldest_at as unpublished_at, s.oldest_at as unsealed_at,
    t.stuck_count, t.transfer_id, t.from_wallet_id, t.updated_at as stuck_since,
    (select count(*) from dead_letters d where d.state = 'open') as open_dead_letter_count
from (values (true)) as always (only_row)
left join auditor a using (only_row)
left join journal_head h using (only_row)
cross join lateral (
    select min(e.occurred_at) as oldest_at
    from events e
    where e.batch_id = (
        select j.batch_id
        from journal j
        where j.position is not null and j.published_at is null and j.event_count > 0
        order by j.position
        limit 1
    )
) as u
cross join lateral (
    select min(e.occurred_at) as oldest_at
    from events e
    where e.batch_id = (
        select j.batch_id
        from journal j
        where j.position is null and j.event_count > 0
        order by j.seq
        limit 1
    )
) as s
cross join lateral (
    select count(*) as stuck_count, (array_agg(f.transfer_id))[1] as transfer_id,
        (array_agg(f.from_wallet_id))[1] as from_wallet_id, min(f.updated_at) as updated_at
    from (
        select t.transfer_id, t.from_wallet_id, t.updated_at
        from transfers t
        where t.status = 'debited'
            and (t.updated_at < clock_timestamp() - $1::interval or t.updated_at > clock_timestamp() + $1::interval)
        order by t.updated_at
        limit 1000
    ) as f
) as t

-- name: anchor
select j.position, j.chain
from journal j
where j.position = $1

-- name: last_sealed
select j.position, j.chain
from journal j
where j.position is not null
order by j.position desc
limit 1

-- name: unsealed_sums
-- Sums the committed events that have no position yet; null if too many batches ($1) are unsealed.
select e.type, sum(e.amount) as amount
from (select j.batch_id from journal j where j.position is null order by j.seq limit $1) as j
join events e using (batch_id)
group by e.type

-- name: unsealed_count
select count(*) from (select from journal j where j.position is null order by j.seq limit $1) as j

-- name: in_flight
-- The amount in unfinished transfers that are debited and not yet credited to the receiver.
select coalesce(sum(t.amount), 0) as amount
from transfers t
where t.status = 'debited' and not exists (
    select from transfer_credits c
    where c.bucket = wallet_bucket(t.to_wallet_id) and c.to_wallet_id = t.to_wallet_id
        and c.transfer_id = t.transfer_id and c.outcome = 'credited'
)

-- name: read_whole_tables
-- The incremental check reads by keys; a sum over all wallets is one sequential scan.
set local enable_seqscan = on

-- name: unprocessed
-- The batches after one position up to another: how many of their events had no effect, and how many of those still
-- wait, because they have neither an open dead letter nor one that was replayed.
select j.position, j.published_at is not null as is_published, j.published_at,
    j.published_at = j.sealed_at as is_in_journal_only, u.missing_count, u.event_count, u.oldest_at
from (
    select position, batch_id, published_at, sealed_at
    from journal
    where position > $1 and position <= $2
) as j
cross join lateral (
    select count(*) as missing_count, count(*) filter (where not m.has_dead_letter) as event_count,
        min(m.occurred_at) filter (where not m.has_dead_letter) as oldest_at
    from (
        select e.occurred_at, exists (
            select from dead_letters d where d.event_id = e.event_id and d.state in ('open', 'replayed')
        ) as has_dead_letter
        from events e
        where e.batch_id = j.batch_id
            and not exists (
                select from processed_events p
                where p.bucket = e.bucket and p.event_id = e.event_id and p.status = 'success'
            )
    ) as m
) as u
order by j.position

-- name: missing_events
-- The events without effect in batches that were passed.
select e.bucket, e.event_id, e.wallet_id, e.version, j.position, j.published_at
from journal j
join events e on e.batch_id = j.batch_id
where j.position = any ($1::bigint[])
    and not exists (
        select from processed_events p
        where p.bucket = e.bucket and p.event_id = e.event_id and p.status = 'success'
    )
order by j.position, e.ordinal
limit $2

-- name: waiting_events
-- The current state of events that had no effect.
select k.event_id, exists (
        select from processed_events p
        where p.bucket = k.bucket and p.event_id = k.event_id and p.status = 'success'
    ) as has_effect,
    coalesce(d.is_open, false) as is_open, coalesce(d.is_discarded, false) as is_discarded, d.replayed_at
from unnest($1::smallint[], $2::uuid[]) as k (bucket, event_id)
cross join lateral (
    select bool_or(l.state = 'open') as is_open, bool_or(l.state = 'discarded') as is_discarded,
        max(l.updated_at) filter (where l.state = 'replayed') as replayed_at
    from dead_letters l
    where l.event_id = k.event_id
) as d
