-- What a worker beside a broker needs to follow the journal, and when a lease may be taken.
-- Programs of earlier versions read neither.

-- Up to `position` every batch has its effects. Up to `followed_position` every batch that no broker confirmed has
-- its effects; the others come through the worker's queue. Programs of earlier versions move `position` only, so the
-- greater of the two counts.
alter table worker_checkpoint add column followed_position bigint not null default 0;

-- A lease has ended when its time is over, or when it ends later than its holder can have asked for: then the clock
-- was put back, or a failover led to a server with a slower clock. Twice the length of a lease, because a statement
-- that waited for the row compares with the time at which it began. The token fences off the former holder.
create function lease_has_ended(lease_until timestamptz, moment timestamptz, lease_length interval) returns boolean
    language sql immutable
    return lease_until <= moment or lease_until > moment + 2 * lease_length;
