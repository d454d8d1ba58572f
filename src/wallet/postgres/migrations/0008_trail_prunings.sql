-- Records of pruning: rows of the audit trail are deleted only by inserting a record of it, in one statement.
-- The insert states who, why and which rows; the triggers fill in what is really there and delete it. So no record
-- exists without its deletion, and no deletion without its record: a delete is refused unless a record of the same
-- transaction (by its start time) covers the row. There is no setting that would allow it.
-- The previous version's `wallet prune` is refused from now on, with nothing deleted.

create table trail_prunings (
    bucket      smallint    not null,
    pruned_at   timestamptz not null,
    actor       text        not null,
    reason      text        not null,
    before      timestamptz not null,
    first_id    uuid        not null,
    last_id     uuid        not null,
    first_at    timestamptz not null,
    last_at     timestamptz not null,
    row_count   integer     not null,
    constraint trail_prunings_pkey primary key (bucket, pruned_at),
    constraint trail_prunings_has_actor check (actor <> ''),
    constraint trail_prunings_has_reason check (reason <> ''),
    constraint trail_prunings_has_rows check (row_count > 0),
    constraint trail_prunings_in_the_past check (before <= pruned_at)
);
create trigger trail_prunings_append_only before update or delete on trail_prunings
    for each row execute function refuse_change();
create trigger trail_prunings_no_truncate before truncate on trail_prunings
    for each statement execute function refuse_change();

create function trail_prunings_describe() returns trigger
    language plpgsql as $$
declare
    given_first uuid := new.first_id;
    given_last uuid := new.last_id;
begin
    new.pruned_at := now();
    select count(*), min(a."timestamp"), max(a."timestamp"),
        (array_agg(a.api_audit_id order by a.api_audit_id))[1],
        (array_agg(a.api_audit_id order by a.api_audit_id desc))[1]
    into new.row_count, new.first_at, new.last_at, new.first_id, new.last_id
    from api_audit a
    where a.bucket = new.bucket and a.api_audit_id between given_first and given_last and a."timestamp" < new.before;
    return new;
end
$$;

create function trail_prunings_delete() returns trigger
    language plpgsql as $$
declare
    deleted bigint;
begin
    delete from api_audit a
    where a.bucket = new.bucket and a.api_audit_id between new.first_id and new.last_id
        and a."timestamp" < new.before;
    get diagnostics deleted = row_count;
    if deleted <> new.row_count then
        raise exception 'the record names % rows and % were found: others were written meanwhile', new.row_count, deleted
            using errcode = 'serialization_failure';
    end if;
    return null;
end
$$;
create trigger trail_prunings_describe before insert on trail_prunings
    for each row execute function trail_prunings_describe();
create trigger trail_prunings_delete after insert on trail_prunings
    for each row execute function trail_prunings_delete();

create or replace function api_audit_settle_once() returns trigger
    language plpgsql as $$
begin
    if tg_op = 'DELETE' and exists (
        select from trail_prunings p
        where p.bucket = old.bucket and p.pruned_at = now()
            and old.api_audit_id between p.first_id and p.last_id and old."timestamp" < p.before
    ) then
        return old;
    end if;
    if tg_op = 'DELETE' or old.status is not null
        or (to_jsonb(old) - 'status') is distinct from (to_jsonb(new) - 'status')
    then
        raise exception '% on api_audit is refused: its rows are append-only', tg_op
            using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;
