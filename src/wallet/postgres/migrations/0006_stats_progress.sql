-- When a row of the statistics was created and last changed, and up to which time everything has been counted.
-- Null where it is not known: in rows that were created before, and by the programs of earlier versions.

alter table wallet_stats
    add column created_at timestamptz,
    add column updated_at timestamptz;

-- One row: every event in the journal up to `position` has been counted, and every change that was committed before
-- `as_of`. A target is a time at which the journal was looked at; everything that had been committed by then has a
-- place in the order of insertion up to `target_seq`, and, as soon as all of that is sealed, a position up to
-- `target_position`. Once the count reaches that position, `as_of` becomes the time of the target.
create table stats_progress (
    only_row        boolean     not null default true,
    position        bigint      not null default 0,
    as_of           timestamptz,
    target_at       timestamptz,
    target_seq      bigint,
    target_position bigint,
    checked_at      timestamptz not null default '-infinity',
    constraint stats_progress_pkey primary key (only_row),
    constraint stats_progress_only_row check (only_row),
    constraint stats_progress_target_whole check ((target_at is null) = (target_seq is null)),
    constraint stats_progress_sealed_target check (target_position is null or target_at is not null)
);
insert into stats_progress default values;
