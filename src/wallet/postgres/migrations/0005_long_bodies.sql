-- A dead letter stores at most 1 MiB of a body; body_bytes is the length of the whole. Null in rows from before: there
-- the whole body is stored. body_sha256 is the digest of the whole body in both.
alter table dead_letters add column body_bytes bigint;
