-- The continuous auditor: one active by lease, and what it knows of the books. It lives on one node.
-- Programs of earlier versions never touch it; nothing else refers to it.

create table auditor (
    only_row    boolean     not null default true,
    holder      text,
    token       bigint      not null default 0,
    lease_until timestamptz not null default '-infinity',
    state       jsonb       not null default '{}',
    constraint auditor_pkey primary key (only_row),
    constraint auditor_only_row check (only_row)
);
insert into auditor default values;

-- Whether an event has a dead letter, in one look-up for each event that had no effect yet.
create index dead_letters_event on dead_letters (event_id) where event_id is not null;
