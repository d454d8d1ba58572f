-- The statements that a check of the books reads, all in one snapshot. Each statement returns either a stream of rows
-- that Python compares with the results of the domain's own functions, or the first row that breaks a promise together
-- with the number of such rows. Where a statement contains `bucket between`, the check may cover only some of the
-- buckets. Both sides of a join repeat the condition, because the planner would not derive it.

-- name: read_at_length
-- Rows are fetched through portals. Portals never run in parallel and are always read to their end, so these settings
-- stop the planner from planning for either. Sorts beyond work_mem go to temporary files: memory stays bounded on the
-- server too. If the checking process is killed, the transaction must end, because its snapshot would keep vacuum from
-- removing rows.
set local cursor_tuple_fraction = 1;
set local max_parallel_workers_per_gather = 0;
set local work_mem = '64MB';
set local idle_in_transaction_session_timeout = '60s';
set local client_connection_check_interval = '2s'

-- name: refuse_loops
set local enable_nestloop = off

-- name: allow_loops
set local enable_nestloop = on

-- name: read_clock
select clock_timestamp()

-- name: sums_by_type
select e.type, count(*) as event_count, sum(e.amount) as amount
from events e
group by e.type
order by e.type

-- name: sum_of_balances
select count(*) as wallet_count, coalesce(sum(w.balance), 0) as balance
from wallets w

-- name: histories
-- Every event in its wallet's order, next to the wallet's row; either may be missing. A time that a Python datetime
-- can't represent can only have been written by another program; it is read as null, and reported.
select bucket, wallet_id, e.version, e.type, e.amount, e.balance_after,
    case when e.occurred_at between '0001-01-02Z' and '9999-12-30Z' then e.occurred_at end as occurred_at,
    case when e.type = 'WalletCreated' then e.payload ->> 'currency' end as created_currency,
    w.version as wallet_version, w.balance /* stored_columns */
from (
    select bucket, wallet_id, version, type, amount, balance_after, occurred_at, payload
    from events
    where bucket between $1 and $2
) as e
full join (
    select w.bucket, w.wallet_id, w.version, w.balance /* wallet_columns */
    from wallets w
    where w.bucket between $1 and $2
) as w using (bucket, wallet_id)
order by bucket, wallet_id, e.version

-- name: wallets_around
-- Reads what surrounds events that were read by their batch: the event before, the wallet's last event and the wallet's
-- row.
select k.bucket, k.wallet_id, b.balance_after as balance_before, b.occurred_at as before_at,
    l.version as last_version, l.balance_after as last_balance,
    case when l.occurred_at between '0001-01-02Z' and '9999-12-30Z' then l.occurred_at end as last_at,
    w.version as wallet_version, w.balance /* wallet_columns */
from unnest($1::smallint[], $2::text[], $3::bigint[]) as k (bucket, wallet_id, version)
left join lateral (
    select e.balance_after,
        case when e.occurred_at between '0001-01-02Z' and '9999-12-30Z' then e.occurred_at end as occurred_at
    from events e
    where e.bucket = k.bucket and e.wallet_id = k.wallet_id and e.version between k.version - 1 and k.version - 1
    order by e.version
    limit 1
) as b on true
left join lateral (
    select e.version, e.balance_after, e.occurred_at
    from events e
    where e.bucket = k.bucket and e.wallet_id = k.wallet_id
    order by e.version desc
    limit 1
) as l on true
left join wallets w on w.bucket = k.bucket and w.wallet_id = k.wallet_id
order by k.bucket, k.wallet_id

-- name: sealed_batches
select j.batch_id, j.position, j.event_count, j.digest, j.chain
from journal j
where j.position > $1
order by j.position
limit $2

-- name: unsealed_batches
select j.batch_id, j.seq, j.event_count, j.digest
from journal j
where j.position is null and j.seq > $1
order by j.seq
limit $2

-- name: events_of_batches
select e.batch_id, e.ordinal, e.bucket, e.wallet_id, e.version, e.event_id, e.type,
    case when e.occurred_at between '0001-01-02Z' and '9999-12-30Z' then e.occurred_at end as occurred_at,
    e.amount, e.balance_after, e.transfer_id, e.api_audit_id, e.payload, e.schema_version
from events e
where e.batch_id = any ($1::uuid[])
order by e.ordinal

-- name: operations_of_batches
select o.batch_id, o.bucket, o.wallet_id, o.request_id, o.kind, o.fingerprint, o.success, o.status, o.refusal,
    o.response, o.api_audit_id
from operations o
where o.batch_id = any ($1::uuid[]) and o.state = 'final'

-- name: credits_of_transfers
-- Reads the amounts credited to the receivers of transfers whose credit event is in another batch.
select k.transfer_id, c.balance_after
from unnest($1::smallint[], $2::text[], $3::uuid[]) as k (bucket, to_wallet_id, transfer_id)
cross join lateral (
    select t.balance_after
    from transfer_credits t
    where t.bucket = k.bucket and t.to_wallet_id = k.to_wallet_id and t.transfer_id = k.transfer_id
        and t.outcome = 'credited'
    limit 1
) as c

-- name: head
select h.position, h.chain
from journal_head h

-- name: unpublished
select count(*) as batch_count, min(j.position) as position
from journal j
where j.position is not null and j.published_at is null and j.sealed_at < $1

-- name: counts
select
    (select count(*) from events where bucket between $1 and $2) as event_count,
    (select count(*) from operations where bucket between $1 and $2) as operation_count

-- name: transfer_count
select count(*)
from transfers

-- name: stray_events
select count(*) over () as fault_count, e.wallet_id, e.version, e.event_id, e.batch_id
from events e
where e.bucket between $1 and $2 and not exists (select from journal j where j.batch_id = e.batch_id)
order by e.batch_id, e.ordinal
limit 1

-- name: stray_operations
select count(*) over () as fault_count, o.wallet_id, o.request_id, o.batch_id
from operations o
where o.bucket between $1 and $2 and not exists (select from journal j where j.batch_id = o.batch_id)
order by o.batch_id, o.wallet_id, o.request_id
limit 1

-- name: stuck_transfers
select count(*) over () as fault_count, t.transfer_id, t.from_wallet_id, t.updated_at
from transfers t
-- A time far ahead was written before the clock was put back; $1 is one minute ago.
where t.status = 'debited' and (t.updated_at < $1 or t.updated_at > $1::timestamptz + interval '2 minutes')
order by t.updated_at, t.transfer_id
limit 1

-- name: transfers_unlike_their_events
-- The steps of a transfer are the types of its events, in alphabetical order, one word each; $1 and $2 state which
-- steps belong to which status.
select count(*) over () as fault_count, transfer_id, t.from_wallet_id, t.status, e.steps, e.agrees
from (
    select e.transfer_id, t.bucket, t.from_wallet_id,
        string_agg(e.type, ' ' order by e.type collate "C") as steps,
        bool_and(
            e.amount = t.amount
            and e.payload ->> 'fromWalletId' is not distinct from t.from_wallet_id
            and e.payload ->> 'toWalletId' is not distinct from t.to_wallet_id
            and e.payload ->> 'currency' is not distinct from t.currency
            and e.api_audit_id = t.api_audit_id
            and e.wallet_id = case e.type when 'TransferCredited' then t.to_wallet_id else t.from_wallet_id end
        ) as agrees
    from events e
    left join transfers t using (transfer_id)
    where e.transfer_id is not null
    group by e.transfer_id, t.bucket, t.from_wallet_id
) as e
full join transfers t using (transfer_id)
where t.status is null or e.steps is null or not e.agrees
    or not exists (
        select from unnest($1::text[], $2::text[]) as k (status, steps)
        where k.status = t.status and k.steps = e.steps
    )
order by transfer_id
limit 1

-- name: first_event_of_transfer
select e.wallet_id, e.version
from events e
where e.transfer_id = $1
order by e.occurred_at, e.wallet_id, e.version
limit 1

-- name: transfers_unlike_their_outcomes
-- The operation must be pending while the transfer is debited, a success if it is completed, and the refusal $1 if it
-- failed. No other operation is ever pending. For a single (not atomic) operation the fingerprint states the transfer.
select count(*) over () as fault_count, t.transfer_id, t.status, wallet_id, request_id, o.state, o.refusal, o.kind,
    t.asked, o.fingerprint, o.api_audit_id = t.api_audit_id as has_same_request
from (
    select bucket, from_wallet_id as wallet_id, request_id, transfer_id, status, api_audit_id,
        'transfer:' || amount || ':' || to_wallet_id as asked
    from transfers
) as t
full join (
    select bucket, wallet_id, request_id, state, refusal, kind, fingerprint, api_audit_id
    from operations
    where state = 'pending' or (kind = 'transfer' and (success or refusal = $1))
) as o using (bucket, wallet_id, request_id)
where o.kind <> 'transfer' or o.api_audit_id <> t.api_audit_id
    or (o.fingerprint <> t.asked and o.fingerprint not like 'atomic:%')
    or (
    case
        when o.state = 'pending' then 'debited'
        when o.refusal = $1 then 'failed'
        when o.state = 'final' then 'completed'
    end
    ) is distinct from t.status
order by t.transfer_id, wallet_id, request_id
limit 1

-- name: credits_unlike_their_transfers
select count(*) over () as fault_count, c.transfer_id, c.to_wallet_id, c.outcome, c.event_version, t.status, e.type
from transfer_credits c
left join transfers t on t.transfer_id = c.transfer_id and t.to_wallet_id = c.to_wallet_id
left join events e
    on e.bucket = c.bucket and e.wallet_id = c.to_wallet_id and e.version = c.event_version
        and e.transfer_id = c.transfer_id and e.balance_after = c.balance_after
where t.status is null
    or (c.outcome = 'credited' and (t.status = 'failed' or e.type is distinct from 'TransferCredited'))
    or (c.outcome = 'refused' and t.status = 'completed')
order by c.transfer_id
limit 1

-- name: chains_at
select k.position, j.chain
from unnest($1::bigint[]) as k (position)
left join journal j on j.position = k.position

-- name: last_position
select coalesce(max(j.position), 0) as position
from journal j

-- name: effects_without_events
select count(*) over () as fault_count, p.event_id, p.processed_at
from processed_events p
where p.status = 'success' and p.bucket between $1 and $2
    and not exists (
        select from events e
        where e.bucket between $1 and $2 and e.bucket = p.bucket and e.event_id = p.event_id
    )
order by p.processed_at, p.event_id
limit 1

-- name: failures_without_dead_letters
select count(*) over () as fault_count, e.wallet_id, e.version, p.event_id, p.error_message
from processed_events p
join events e on e.bucket = p.bucket and e.event_id = p.event_id
where p.status = 'failed' and p.bucket between $1 and $2 and e.bucket between $1 and $2
    and not exists (select from dead_letters d where d.event_id = p.event_id)
order by e.occurred_at, p.event_id
limit 1

-- name: last_effect
-- Reads the last position that has an event with an effect older than $1, among the newest $2 published batches; of a
-- large batch only the first events are checked. This proves that the worker has passed everything before that
-- position.
select j.position, j.published_at
from (
    select position, batch_id, published_at
    from journal
    where published_at is not null and position < coalesce(
        (
            select u.position
            from journal u
            where u.position is not null and u.published_at is null
            order by u.position
            limit 1
        ),
        9223372036854775807
    )
    order by position desc
    limit $2
) as j
cross join lateral (
    select
    from (
        select b.bucket, b.event_id
        from events b
        where b.batch_id = j.batch_id
        limit 20
    ) as e
    cross join lateral (
        select
        from processed_events p
        where p.bucket = e.bucket and p.event_id = e.event_id and p.status = 'success' and p.processed_at < $1
        limit 1
    ) as effect
    limit 1
) as effects
order by j.position desc
limit 1

-- name: followed_from
-- Reads the position from which a worker reads the journal itself, if its lease, of the length $1, has not ended.
select greatest(c.position, c.followed_position) as position
from worker_checkpoint c
where not lease_has_ended(c.lease_until, clock_timestamp(), $1::interval)

-- name: events_without_effect
-- Events published before $3 (or far ahead, before the clock was put back) that have no effect, no open dead letter and
-- no replay after $3. An event is lost if its dead letter was discarded. It is also lost if it is before the last
-- effect ($4, published at $5, which must be later than a replay), unless a worker that reads the journal itself has
-- not reached it ($6).
select count(*) over () as event_count, count(*) filter (where f.is_lost) over () as lost_count, f.event_id,
    f.wallet_id, f.version, f.is_lost, f.is_discarded
from (
    select e.event_id, e.wallet_id, e.version, j.position, e.ordinal, coalesce(d.is_discarded, false) as is_discarded,
        coalesce(d.is_discarded and d.replayed_at is null, false)
            or coalesce(j.position < $4::bigint, false) and coalesce(d.replayed_at < $5::timestamptz, true)
            and not coalesce(j.published_at = j.sealed_at and j.position > $6::bigint, false) as is_lost
    from events e
    join journal j using (batch_id)
    left join (
        select l.event_id, bool_or(l.state = 'open') as is_open, bool_or(l.state = 'discarded') as is_discarded,
            max(l.updated_at) filter (where l.state = 'replayed') as replayed_at
        from dead_letters l
        where l.event_id is not null
        group by l.event_id
    ) as d on d.event_id = e.event_id
    where (j.published_at < $3 or j.published_at > $3::timestamptz + interval '1 hour')
        and e.bucket between $1 and $2
        and not coalesce(d.is_open, false)
        and not coalesce(d.replayed_at > $3, false)
        and not exists (
            select from processed_events p
            where p.bucket between $1 and $2 and p.bucket = e.bucket and p.event_id = e.event_id
                and p.status = 'success'
        )
) as f
order by f.is_lost desc, f.position, f.ordinal
limit $7

-- name: inbox_counts
select
    (select count(*) from processed_events where bucket between $1 and $2) as processed_count,
    (select count(*) from events where bucket between $1 and $2) as event_count,
    (select count(*) from dead_letters where state = 'open') as open_dead_letter_count

-- name: processed_activity
-- The events processed so far, summed by wallet and type, next to the wallet's statistics; either may be missing. A
-- completed transfer is in the sender's sequence and also changes the receiver's totals.
select bucket, wallet_id, a.type, a.is_receiver, a.amount, a.occurred_at, s.wallet_id is not null as has_stats,
    s.total_deposited, s.total_withdrawn, s.total_transferred_out, s.total_transferred_in, s.last_activity_at,
    s.suspicious_reason, (
        select f.reason
        from fraud_alerts f
        where f.bucket = s.bucket and f.wallet_id = s.wallet_id
        order by f.occurred_at, f.event_id, f.rule
        limit 1
    ) as earliest_reason
from (
    select bucket, wallet_id, type, is_receiver, sum(amount) as amount,
        greatest(least(max(occurred_at), '9999-12-30Z'), '0001-01-02Z') as occurred_at
    from (
        select e.bucket, e.wallet_id, e.type, false as is_receiver, e.amount, e.occurred_at
        from events e
        join processed_events p using (bucket, event_id)
        where p.status = 'success'
        union all
        select wallet_bucket(e.payload ->> 'toWalletId'), e.payload ->> 'toWalletId', e.type, true, e.amount,
            e.occurred_at
        from events e
        join processed_events p using (bucket, event_id)
        where p.status = 'success' and e.type = 'TransferCompleted'
    ) as concerned
    group by bucket, wallet_id, type, is_receiver
) as a
full join wallet_stats s using (bucket, wallet_id)
order by bucket, wallet_id, a.type, a.is_receiver

-- name: operations_unlike_their_trail
-- Each outcome next to the row of the audit trail that its request wrote. That row is in the wallet's bucket, or, if
-- the request had several operations, in bucket 0 and without a wallet. Returns the outcomes whose row is missing or
-- differs, and those whose path has escapes, which the caller decodes and compares. The columns of a row are reduced
-- before the join (`offset 0`), so that no body passes through the join. A body that led to an outcome is UTF-8, so its
-- text gives the original bytes; of a longer body the first 4096 bytes are stored, and the last character may be cut.
-- An id is a UUIDv7: its first 48 bits are the time in milliseconds, by the clock of the api.
select c.bucket, c.wallet_id, c.request_id, c.kind, c.status, c.api_audit_id, c.is_missing, c.is_of_many, c.method,
    c.path, c.trail_status, c.trail_wallet_id, c.trail_request_id, c.is_body_intact, c.is_in_time, c.agrees
from (
    select o.bucket, o.wallet_id, o.request_id, o.kind, o.status, o.api_audit_id, a.api_audit_id is null as is_missing,
        a.bucket = 0 and num_nulls(a.wallet_id, a.request_id) = 2 as is_of_many, a.method, a.path, a.status as trail_status, a.wallet_id as trail_wallet_id,
        a.request_id as trail_request_id, a.is_body_intact, a.is_in_time,
        a.method = 'POST' and a.is_body_intact and a.is_in_time and (
            (
                a.bucket = o.bucket and a.wallet_id = o.wallet_id and a.request_id = o.request_id
                and a.status is not distinct from o.status
            )
            or (
                a.bucket = 0 and num_nulls(a.wallet_id, a.request_id) = 2 and (a.status = 200 or a.status = o.status)
            )
        ) is true as agrees
    from operations o
    left join (
        select t.bucket, t.api_audit_id, t.method, split_part(t.url, '?', 1) as path, t.wallet_id, t.request_id,
            t.status,
            case
                when t.body_length > 4096 then octet_length(t.body) >= 4096
                else octet_length(t.body) = t.body_length and sha256(convert_to(t.body, 'UTF8')) = t.body_sha256
            end as is_body_intact,
            abs(
                extract(epoch from t."timestamp")
                - ('x' || left(replace(t.api_audit_id::text, '-', ''), 12))::bit(48)::bigint / 1000.0
            ) < 86400 as is_in_time
        from api_audit t
        offset 0
    ) as a on a.api_audit_id = o.api_audit_id and (a.bucket = o.bucket or a.bucket = 0)
) as c
where c.is_missing or not c.agrees
    or rtrim(c.path, '/') <> case
        when c.is_of_many then '/operations'
        else '/wallet/' || c.wallet_id || '/' || c.kind
    end

-- name: trail_rows_without_outcome
-- Rows of the audit trail that state that money moved, although the request's key has no outcome. The status of a bulk
-- request is 200.
select count(*) over () as fault_count, t.api_audit_id, t.wallet_id, t.request_id, t.status
from api_audit t
where t.status = 201 and not exists (
    select from operations o
    where o.bucket = t.bucket and o.wallet_id = t.wallet_id and o.request_id = t.request_id
)
order by t.api_audit_id
limit 1

-- name: operation_count
select count(*)
from operations

-- name: pruned_ranges
select p.bucket, p.first_id, p.last_id
from trail_prunings p
order by p.bucket, p.first_id

-- name: alerts_without_events
select count(*) over () as fault_count, f.wallet_id, f.rule, f.event_id
from fraud_alerts f
where not exists (
    select from processed_events p
    where p.bucket = f.bucket and p.event_id = f.event_id and p.status = 'success'
)
order by f.occurred_at, f.event_id, f.rule
limit 1
