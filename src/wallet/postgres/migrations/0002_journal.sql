-- The journal: one row for each transaction that stored anything, sealed into a gap-free order by the relay.
-- It lives on one node.

create table journal (
    batch_id     uuid    not null,
    seq          bigint  not null generated always as identity (cache 1),
    event_count  integer not null,
    digest       bytea   not null,
    position     bigint,
    chain        bytea,
    sealed_at    timestamptz,
    published_at timestamptz,
    constraint journal_pkey primary key (batch_id),
    constraint journal_seq_key unique (seq),
    constraint journal_position_key unique (position),
    constraint journal_sealed_whole check (num_nulls(position, chain, sealed_at) in (0, 3)),
    constraint journal_sealed_before_published check (published_at is null or position is not null)
);

create function journal_set_once() returns trigger
    language plpgsql as $$
begin
    if tg_op = 'DELETE'
        or (old.batch_id, old.seq, old.event_count, old.digest)
            is distinct from (new.batch_id, new.seq, new.event_count, new.digest)
        or (old.position is not null
            and (old.position, old.chain, old.sealed_at) is distinct from (new.position, new.chain, new.sealed_at))
        or (old.published_at is not null and old.published_at is distinct from new.published_at)
    then
        raise exception '% on journal is refused: each value is set once', tg_op
            using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;
create index journal_unsealed on journal (seq) where position is null;
create index journal_unpublished on journal (position) where position is not null and published_at is null;
create trigger journal_set_once before update or delete on journal
    for each row execute function journal_set_once();
create trigger journal_no_truncate before truncate on journal
    for each statement execute function refuse_change();

create table journal_head (
    only_row    boolean     not null default true,
    holder      text,
    token       bigint      not null default 0,
    lease_until timestamptz not null default '-infinity',
    position    bigint      not null default 0,
    chain       bytea       not null default '\x0000000000000000000000000000000000000000000000000000000000000000',
    constraint journal_head_pkey primary key (only_row),
    constraint journal_head_only_row check (only_row)
);
insert into journal_head default values;
