-- The books: wallets, their events, the outcome of every key, transfers and the audit trail.
-- Each wallet-owned key leads with the bucket, so that the same schema can be spread over several nodes.

create function wallet_bucket(wallet_id text) returns smallint
    language sql immutable strict parallel safe
    return (get_byte(sha256(convert_to(wallet_id, 'UTF8')), 0) & 63)::smallint;

create function refuse_change() returns trigger
    language plpgsql as $$
begin
    raise exception '% on % is refused: its rows are append-only', tg_op, tg_table_name
        using errcode = 'restrict_violation';
end
$$;

create table wallets (
    bucket        smallint       not null,
    wallet_id     text           not null,
    currency      text           not null,
    balance       numeric(20, 4) not null,
    version       bigint         not null,
    last_event_at timestamptz,
    status        text           not null default 'active',
    created_at    timestamptz    not null default now(),
    constraint wallets_pkey primary key (bucket, wallet_id),
    constraint wallets_balance_not_negative check (balance >= 0),
    constraint wallets_version_not_negative check (version >= 0),
    constraint wallets_status_known check (status in ('active'))
) with (fillfactor = 80);

create table events (
    bucket         smallint       not null,
    wallet_id      text           not null,
    version        bigint         not null,
    event_id       uuid           not null,
    type           text           not null,
    schema_version smallint       not null,
    amount         numeric(20, 4) not null,
    balance_after  numeric(20, 4) not null,
    payload        jsonb          not null,
    transfer_id    uuid,
    batch_id       uuid           not null,
    ordinal        integer        not null,
    api_audit_id   uuid           not null,
    occurred_at    timestamptz    not null,
    constraint events_pkey primary key (bucket, wallet_id, version),
    constraint events_version_positive check (version > 0),
    constraint events_amount_not_negative check (amount >= 0),
    constraint events_balance_not_negative check (balance_after >= 0)
);
create index events_batch on events (batch_id);
create index events_time on events (bucket, wallet_id, occurred_at);
create index events_withdrawals on events (bucket, wallet_id, occurred_at) where type = 'FundsWithdrawn';
create trigger events_append_only before update or delete on events
    for each row execute function refuse_change();
create trigger events_no_truncate before truncate on events
    for each statement execute function refuse_change();

create table operations (
    bucket       smallint not null,
    wallet_id    text     not null,
    request_id   text     not null,
    kind         text     not null,
    fingerprint  text     not null,
    state        text     not null,
    success      boolean,
    status       smallint,
    refusal      text,
    response     bytea,
    batch_id     uuid     not null,
    api_audit_id uuid     not null,
    constraint operations_pkey primary key (bucket, wallet_id, request_id),
    constraint operations_kind_known check (kind in ('deposit', 'withdraw', 'transfer')),
    constraint operations_state_known check (state in ('pending', 'final')),
    constraint operations_final_has_outcome check (
        (state = 'pending' and num_nulls(success, status, response) = 3 and refusal is null)
        or (state = 'final' and num_nulls(success, status, response) = 0 and success = (refusal is null))
    )
);

create function operations_settle_once() returns trigger
    language plpgsql as $$
begin
    if tg_op = 'DELETE' or old.state = 'final'
        or (old.bucket, old.wallet_id, old.request_id, old.kind, old.fingerprint, old.api_audit_id)
            is distinct from
            (new.bucket, new.wallet_id, new.request_id, new.kind, new.fingerprint, new.api_audit_id)
    then
        raise exception '% on operations is refused: an outcome is stored once', tg_op
            using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;
create index operations_batch on operations (batch_id);
create trigger operations_settle_once before update or delete on operations
    for each row execute function operations_settle_once();
create trigger operations_no_truncate before truncate on operations
    for each statement execute function refuse_change();

create table transfers (
    bucket         smallint       not null,
    from_wallet_id text           not null,
    transfer_id    uuid           not null,
    to_wallet_id   text           not null,
    amount         numeric(20, 4) not null,
    currency       text           not null,
    status         text           not null,
    request_id     text           not null,
    api_audit_id   uuid           not null,
    last_error     text,
    created_at     timestamptz    not null,
    updated_at     timestamptz    not null,
    constraint transfers_pkey primary key (bucket, from_wallet_id, transfer_id),
    constraint transfers_amount_positive check (amount > 0),
    constraint transfers_two_wallets check (from_wallet_id <> to_wallet_id),
    constraint transfers_status_known check (status in ('debited', 'completed', 'failed'))
);

create function transfers_move_forward() returns trigger
    language plpgsql as $$
begin
    if tg_op = 'DELETE' or old.status <> 'debited'
        or (old.bucket, old.from_wallet_id, old.transfer_id, old.to_wallet_id, old.amount, old.request_id)
            is distinct from
            (new.bucket, new.from_wallet_id, new.transfer_id, new.to_wallet_id, new.amount, new.request_id)
    then
        raise exception '% on transfers is refused: a transfer ends once', tg_op
            using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;
create index transfers_unfinished on transfers (updated_at) where status = 'debited';
create index transfers_request on transfers (bucket, from_wallet_id, request_id);
create trigger transfers_move_forward before update or delete on transfers
    for each row execute function transfers_move_forward();
create trigger transfers_no_truncate before truncate on transfers
    for each statement execute function refuse_change();

create table transfer_credits (
    bucket        smallint    not null,
    to_wallet_id  text        not null,
    transfer_id   uuid        not null,
    outcome       text        not null,
    reason        text,
    event_version bigint,
    balance_after numeric(20, 4),
    decided_at    timestamptz not null,
    constraint transfer_credits_pkey primary key (bucket, to_wallet_id, transfer_id),
    constraint transfer_credits_outcome_known check (
        (outcome = 'credited' and reason is null and event_version is not null and balance_after is not null)
        or (outcome = 'refused' and reason is not null and event_version is null and balance_after is null)
    )
);
create trigger transfer_credits_append_only before update or delete on transfer_credits
    for each row execute function refuse_change();
create trigger transfer_credits_no_truncate before truncate on transfer_credits
    for each statement execute function refuse_change();

create table api_audit (
    bucket       smallint    not null,
    api_audit_id uuid        not null,
    method       text        not null,
    url          text        not null,
    body         text        not null,
    body_length  integer     not null,
    body_sha256  bytea       not null,
    headers      jsonb       not null,
    client_ip    text        not null,
    status       smallint,
    wallet_id    text,
    request_id   text,
    "timestamp"  timestamptz not null,
    constraint api_audit_pkey primary key (bucket, api_audit_id)
);

-- The status of a stepwise transfer's row is null until the transfer ends: it is set once. Rows leave only by
-- `wallet prune`, which says so in its transaction; the books themselves (events, operations, …) have no such door.
create function api_audit_settle_once() returns trigger
    language plpgsql as $$
begin
    if tg_op = 'DELETE' and current_setting('wallet.prunes_audit', true) = 'yes' then
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
create trigger api_audit_settle_once before update or delete on api_audit
    for each row execute function api_audit_settle_once();
create trigger api_audit_no_truncate before truncate on api_audit
    for each statement execute function refuse_change();
