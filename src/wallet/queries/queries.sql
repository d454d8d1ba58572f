-- name: balance
select w.balance
from wallets w
where w.bucket = $1 and w.wallet_id = $2 and w.version > 0

-- name: history
-- The transfer that created a wallet is in the event after its creation.
select e.version, e.event_id, e.type, e.transfer_id, e.occurred_at, e.payload as payload_json,
    case e.type when 'WalletCreated' then (
        select n.payload ->> 'fromWalletId' from events n where n.bucket = $1 and n.wallet_id = $2 and n.version = 2
    ) end as created_by_wallet_id
from events e
where e.bucket = $1 and e.wallet_id = $2 and e.version < $3
order by e.version desc
limit $4

-- name: history_before
-- Time and version have the same order within a wallet, so one look-up by time finds the version at which the page
-- begins.
select e.version, e.event_id, e.type, e.transfer_id, e.occurred_at, e.payload as payload_json,
    case e.type when 'WalletCreated' then (
        select n.payload ->> 'fromWalletId' from events n where n.bucket = $1 and n.wallet_id = $2 and n.version = 2
    ) end as created_by_wallet_id
from events e
where e.bucket = $1 and e.wallet_id = $2 and e.version <= (
    select b.version
    from events b
    where b.bucket = $1 and b.wallet_id = $2 and b.occurred_at < $3
    order by b.occurred_at desc
    limit 1
)
order by e.version desc
limit $4

-- name: stats
-- Both rows come from one snapshot: everything that is counted up to `as_of` is in the totals.
select p.as_of, s.wallet_id is not null as is_known, s.total_deposited, s.total_withdrawn, s.total_transferred_out,
    s.total_transferred_in, s.last_activity_at, s.suspicious, s.suspicious_reason, s.created_at, s.updated_at
from stats_progress p
left join wallet_stats s on s.bucket = $1 and s.wallet_id = $2
where p.only_row

-- name: durability
select current_setting('fsync') as fsync,
    current_setting('full_page_writes') as full_page_writes,
    current_setting('synchronous_commit') as synchronous_commit,
    pg_is_in_recovery() as is_standby

-- name: backlog
-- Events leave the log in two steps: a relay seals a journal row, then publishes it. For each step this reads the
-- oldest row that waits for it, and its age by this server's clock, which may have been changed in the meantime.
select
    u.seq as unsealed_seq,
    (
        select extract(epoch from clock_timestamp() - min(e.occurred_at))::double precision
        from events e
        where e.batch_id = u.batch_id
    ) as unsealed_seconds,
    p.position as unpublished_position,
    extract(epoch from clock_timestamp() - p.sealed_at)::double precision as unpublished_seconds
from (values (true)) as always (only_row)
left join lateral (
    select j.seq, j.batch_id
    from journal j
    where j.position is null and j.event_count > 0
    order by j.seq
    limit 1
) as u on only_row
left join lateral (
    select j.position, j.sealed_at
    from journal j
    where j.position is not null and j.published_at is null and j.event_count > 0
    order by j.position
    limit 1
) as p on only_row
