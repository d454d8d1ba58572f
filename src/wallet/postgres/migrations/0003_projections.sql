-- What the worker makes of the log: totals, fraud alerts, its inbox, dead letters.
-- wallet_stats and fraud_alerts can be rebuilt from events at any time.

create table wallet_stats (
    bucket                smallint       not null,
    wallet_id             text           not null,
    total_deposited       numeric(38, 4) not null default 0,
    total_withdrawn       numeric(38, 4) not null default 0,
    total_transferred_out numeric(38, 4) not null default 0,
    total_transferred_in  numeric(38, 4) not null default 0,
    last_activity_at      timestamptz,
    suspicious            boolean        not null default false,
    suspicious_reason     text,
    constraint wallet_stats_pkey primary key (bucket, wallet_id),
    constraint wallet_stats_suspicious_has_reason check (suspicious = (suspicious_reason is not null))
) with (fillfactor = 80);

create table fraud_alerts (
    bucket      smallint    not null,
    wallet_id   text        not null,
    rule        text        not null,
    event_id    uuid        not null,
    reason      text        not null,
    occurred_at timestamptz not null,
    constraint fraud_alerts_pkey primary key (bucket, wallet_id, rule, event_id)
);
-- A wallet's earliest alert in one look-up: it may have as many alerts as withdrawals.
create index fraud_alerts_earliest on fraud_alerts (bucket, wallet_id, occurred_at, event_id, rule);

create table processed_events (
    bucket        smallint    not null,
    event_id      uuid        not null,
    status        text        not null,
    error_message text,
    attempts      integer     not null default 1,
    processed_at  timestamptz not null,
    constraint processed_events_pkey primary key (bucket, event_id),
    constraint processed_events_status_known check (status in ('success', 'failed')),
    constraint processed_events_failed_has_error check ((status = 'failed') = (error_message is not null))
);

create table dead_letters (
    id          bigint      not null generated always as identity,
    event_id    uuid,
    type        text,
    wallet_id   text,
    version     bigint,
    body        bytea       not null,
    body_sha256 bytea       not null,
    headers     jsonb       not null,
    kind        text        not null,
    error       text        not null,
    attempts    integer     not null,
    state       text        not null default 'open',
    actor       text,
    reason      text,
    history     jsonb       not null,
    created_at  timestamptz not null,
    updated_at  timestamptz not null,
    constraint dead_letters_pkey primary key (id),
    constraint dead_letters_kind_known check (kind in ('failed', 'parked')),
    constraint dead_letters_state_known check (state in ('open', 'replayed', 'discarded')),
    constraint dead_letters_discarded_has_reason check (state <> 'discarded' or reason is not null),
    constraint dead_letters_closed_has_actor check ((state = 'open') = (actor is null))
);
-- A body may have as many bytes as a broker lets through: they are stored without trying to compress them.
alter table dead_letters alter column body set storage external;
-- event_id, type, wallet_id and version are what the message says of itself, where that can be read.
-- kind: `failed` is at fault, or its handler is; `parked` was written by a newer program and waits for one here.
-- history: what happened to it, oldest first; state, actor and reason are those of its last entry.
-- One row for each body: a message that comes again, after a crash or a replay, is the same dead letter.
create unique index dead_letters_body on dead_letters (body_sha256);
create index dead_letters_open on dead_letters (id) where state = 'open';

-- The embedded transport: one active worker by lease, and the position up to which its effects are in.
create table worker_checkpoint (
    only_row    boolean     not null default true,
    holder      text,
    token       bigint      not null default 0,
    lease_until timestamptz not null default '-infinity',
    position    bigint      not null default 0,
    constraint worker_checkpoint_pkey primary key (only_row),
    constraint worker_checkpoint_only_row check (only_row)
);
insert into worker_checkpoint default values;
