-- API keys. The secret is shown once, when the key is created; only its digest is stored. Rows are not deleted: while the
-- table is empty, an api with AUTH=auto serves requests without a key.
create table api_keys (
    key_id text not null,
    secret_sha256 bytea not null,
    name text not null,
    is_test boolean not null,
    scopes text[] not null,
    prefixes text[] not null,
    rate double precision,
    burst integer,
    created_at timestamptz not null,
    created_by text not null,
    expires_at timestamptz,
    revoked_at timestamptz,
    revoked_by text,
    replaces text,
    last_used_at timestamptz,
    constraint api_keys_pkey primary key (key_id),
    constraint api_keys_secret unique (secret_sha256),
    constraint api_keys_replaces foreign key (replaces) references api_keys (key_id),
    constraint api_keys_secret_length check (octet_length(secret_sha256) = 32),
    constraint api_keys_name_length check (char_length(name) between 1 and 100),
    constraint api_keys_scopes_any check (cardinality(scopes) > 0),
    constraint api_keys_limits check (rate > 0 and burst > 0),
    constraint api_keys_rate_has_burst check ((rate is null) = (burst is null)),
    constraint api_keys_revoked_by check ((revoked_at is null) = (revoked_by is null))
);

-- Its version is increased in the transaction of every change to a key. Each api reads it every second, and the keys
-- only after a change.
create table api_keys_version (
    only_row boolean not null default true,
    version bigint not null,
    constraint api_keys_version_pkey primary key (only_row),
    constraint api_keys_version_one_row check (only_row)
);
insert into api_keys_version (version) values (0);
