-- The statements that find the time up to which everything has been counted, in the order in which they are sent.

-- name: lock_progress
-- Returns no row if another worker is doing this now or did it within the interval. The clock is read here, before the
-- snapshot of the next statement is taken, so that snapshot contains every change that was committed before this time.
select p.position, p.as_of, p.target_at, p.target_seq, p.target_position, clock_timestamp() as now
from stats_progress p
where p.only_row and (p.checked_at < clock_timestamp() - $1::interval or p.checked_at > clock_timestamp())
for update skip locked

-- name: read_journal_ends
select h.position as head,
    (select j.seq from journal j where j.position is null order by j.seq limit 1) as first_unsealed,
    (select j.seq from journal j order by j.seq desc limit 1) as last_seq
from journal_head h

-- name: read_next_batches
-- The last of the next batches, and the first of them with an event that is not counted. The inner limit keeps the
-- search in order of position, so that it stops there. A discarded event will never be counted and is ignored.
select (select max(w.position) from (
        select j.position from journal j where j.position > $1 order by j.position limit $2
    ) as w) as last,
    (
        select w.position
        from (select j.position, j.batch_id from journal j where j.position > $1 order by j.position limit $2) as w
        where (
            select true
            from events e
            where e.batch_id = w.batch_id
                and not exists (
                    select from processed_events p
                    where p.bucket = e.bucket and p.event_id = e.event_id and p.status = 'success'
                )
                and not exists (
                    select from dead_letters d where d.event_id = e.event_id and d.state = 'discarded'
                )
            limit 1
        )
        order by w.position
        limit 1
    ) as first_uncounted

-- name: save_progress
update stats_progress
set position = $1, as_of = $2, target_at = $3, target_seq = $4, target_position = $5, checked_at = clock_timestamp()
where only_row
