-- The statements of a rebuild, in the order in which they are sent.

-- name: lock_projections
-- Locks the tables in the worker's own order, before the transaction's snapshot is taken. What a worker has counted by
-- then is in the snapshot, and what it counts afterwards is counted after our commit. Reads are not blocked.
set local idle_in_transaction_session_timeout = '60s';
set local cursor_tuple_fraction = 1;
set local work_mem = '64MB';
lock table processed_events, wallet_stats, fraud_alerts in share row exclusive mode

-- name: find_unknown_event
select e.wallet_id, e.version, e.type, e.schema_version
from events e
where e.schema_version <> $1 or e.type <> all ($2::text[])
limit 1

-- name: keep_stats
create temporary table kept_stats on commit drop as table wallet_stats

-- name: delete_stats
delete from wallet_stats

-- name: delete_alerts
delete from fraud_alerts

-- name: read_activity
-- All events, summed by wallet and type. A completed transfer is in the sender's sequence and also changes the
-- receiver's totals.
select wallet_id, type, is_receiver, sum(amount) as amount, max(occurred_at) as occurred_at, count(*) as event_count
from (
    select e.bucket, e.wallet_id, e.type, false as is_receiver, e.amount, e.occurred_at
    from events e
    union all
    select wallet_bucket(e.payload ->> 'toWalletId'), e.payload ->> 'toWalletId', e.type, true, e.amount, e.occurred_at
    from events e
    where e.type = 'TransferCompleted'
) as concerned
group by bucket, wallet_id, type, is_receiver
order by bucket, wallet_id

-- name: read_withdrawals
select e.event_id, e.wallet_id, e.amount, e.occurred_at
from events e
where e.type = 'FundsWithdrawn'
order by e.bucket, e.wallet_id, e.occurred_at

-- name: restore_times
update wallet_stats s
set created_at = k.created_at,
    updated_at = case
        when (s.total_deposited, s.total_withdrawn, s.total_transferred_out, s.total_transferred_in, s.last_activity_at)
            = (k.total_deposited, k.total_withdrawn, k.total_transferred_out, k.total_transferred_in, k.last_activity_at)
        then k.updated_at
        else s.updated_at
    end
from kept_stats k
where s.bucket = k.bucket and s.wallet_id = k.wallet_id

-- name: enter_failed
update processed_events p
set status = 'success', error_message = null, attempts = p.attempts + 1, processed_at = $1
where p.status = 'failed' and exists (select from events e where e.bucket = p.bucket and e.event_id = p.event_id)

-- name: enter_new
insert into processed_events (bucket, event_id, status, attempts, processed_at)
select e.bucket, e.event_id, 'success', 1, $1
from events e
where not exists (select from processed_events p where p.bucket = e.bucket and p.event_id = e.event_id)

-- name: read_clock
select clock_timestamp()
