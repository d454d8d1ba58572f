-- The statements of a lease. `lease_table` is replaced by the name of the table that stores the lease.

-- name: take
update lease_table
set holder = $1, token = token + 1, lease_until = now() + $2::interval
where lease_has_ended(lease_until, now(), $2::interval) or holder = $1
returning *

-- name: read
select holder, lease_until from lease_table

-- name: renew
update lease_table set lease_until = now() + $2::interval where token = $1

-- name: release
update lease_table set holder = null, lease_until = '-infinity' where token = $1
