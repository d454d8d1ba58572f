-- The statements of the audit trail.

-- name: insert_trail_rows
insert into api_audit (
    bucket, api_audit_id, method, url, body, body_length, body_sha256, headers, client_ip, status, wallet_id,
    request_id, "timestamp"
)
select k.bucket, k.api_audit_id, k.method, k.url, k.body, k.body_length, k.body_sha256, k.headers, k.client_ip,
    k.status, k.wallet_id, k.request_id, coalesce($13, now() - k.age)
from unnest(
    $1::uuid[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::integer[],
    $6::bytea[], $7::jsonb[], $8::text::text[], $9::text::text[], $10::text::text[],
    $11::text::smallint[], $12::text::smallint[], $14::text::interval[]
) as k (
    api_audit_id, method, url, body, body_length, body_sha256, headers, client_ip, wallet_id, request_id,
    bucket, status, age
)
on conflict do nothing

-- name: complete_trail_rows
update api_audit a
set status = k.status
from unnest($1::text::smallint[], $2::uuid[], $3::text::smallint[]) as k (bucket, api_audit_id, status)
where a.bucket = k.bucket and a.api_audit_id = k.api_audit_id and a.status is null

-- name: complete_rows_of_transfers
-- A transfer has few rows. Their ids are not below lowest_id, so the primary key is used to find them.
update api_audit a
set status = k.status
from unnest($1::text::smallint[], $2::text::text[], $3::text::text[], $4::uuid[], $5::text::smallint[])
    as k (bucket, wallet_id, request_id, lowest_id, status)
where a.bucket = k.bucket and a.api_audit_id >= k.lowest_id and a.wallet_id = k.wallet_id
    and a.request_id = k.request_id and a.status is null

-- name: prune_trail_slice
-- Inserts the record of the oldest rows of a bucket. The triggers of the table delete these rows (migration 0008).
insert into trail_prunings (bucket, actor, reason, before, first_id, last_id)
select $1::smallint, $2::text, $3::text, $4::timestamptz, old.ids[1], old.ids[cardinality(old.ids)]
from (
    select array_agg(s.api_audit_id order by s.api_audit_id) as ids
    from (
        select a.api_audit_id
        from api_audit a
        where a.bucket = $1::smallint and a.api_audit_id < $5::uuid and a."timestamp" < $4::timestamptz
        order by a.api_audit_id
        limit $6::integer
    ) as s
) as old
where old.ids is not null
returning row_count
