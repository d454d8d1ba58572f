-- The design that a careful team would choose instead of this service: three tables and one function call per
-- operation. It has the same durability and idempotency, and the indexes for the same reads: the history of a wallet by
-- time, and the events that are not yet published. It has no buckets, no journal, no audit trail and no digests.

create table y_wallets (
    wallet_id  text           not null primary key,
    balance    numeric(20, 4) not null check (balance >= 0),
    version    bigint         not null
) with (fillfactor = 80);

create table y_events (
    wallet_id     text           not null,
    version       bigint         not null,
    event_id      uuid           not null,
    type          text           not null,
    amount        numeric(20, 4) not null,
    balance_after numeric(20, 4) not null,
    payload       jsonb          not null,
    occurred_at   timestamptz    not null,
    seq           bigint         not null generated always as identity,
    published_at  timestamptz,
    primary key (wallet_id, version)
);
create index on y_events (wallet_id, occurred_at);
create index on y_events (seq) where published_at is null;

create table y_operations (
    wallet_id   text  not null,
    request_id  text  not null,
    fingerprint text  not null,
    response    jsonb not null,
    primary key (wallet_id, request_id)
);

create function y_deposit(p_wallet_id text, p_request_id text, p_amount numeric) returns jsonb
    language plpgsql as $$
declare
    v_balance numeric;
    v_version bigint;
    v_request text := 'deposit:' || p_amount;
    v_known   text;
    v_stored  jsonb;
begin
    select balance, version into v_balance, v_version from y_wallets where wallet_id = p_wallet_id for update;
    if not found then
        insert into y_wallets (wallet_id, balance, version) values (p_wallet_id, 0, 0) on conflict do nothing;
        select balance, version into v_balance, v_version from y_wallets where wallet_id = p_wallet_id for update;
    end if;
    select response, fingerprint into v_stored, v_known
    from y_operations where wallet_id = p_wallet_id and request_id = p_request_id;
    if found then
        if v_known <> v_request then
            raise exception 'the key was used for another request';
        end if;
        return v_stored;
    end if;
    v_balance := v_balance + p_amount;
    v_version := v_version + 1;
    insert into y_events (wallet_id, version, event_id, type, amount, balance_after, payload, occurred_at)
    values (
        p_wallet_id, v_version, gen_random_uuid(), 'FundsDeposited', p_amount, v_balance,
        jsonb_build_object('walletId', p_wallet_id, 'amount', p_amount, 'newBalance', v_balance,
            'requestId', p_request_id),
        clock_timestamp()
    );
    v_stored := jsonb_build_object('walletId', p_wallet_id, 'balance', v_balance, 'requestId', p_request_id);
    insert into y_operations (wallet_id, request_id, fingerprint, response)
    values (p_wallet_id, p_request_id, v_request, v_stored);
    update y_wallets set balance = v_balance, version = v_version where wallet_id = p_wallet_id;
    return v_stored;
end
$$;

create function y_transfer(p_from text, p_to text, p_request_id text, p_amount numeric) returns jsonb
    language plpgsql as $$
declare
    v_from    y_wallets;
    v_to      y_wallets;
    v_request text := 'transfer:' || p_amount || ':' || p_to;
    v_known   text;
    v_stored  jsonb;
begin
    perform 1 from y_wallets where wallet_id in (p_from, p_to) order by wallet_id for update;
    select response, fingerprint into v_stored, v_known
    from y_operations where wallet_id = p_from and request_id = p_request_id;
    if found then
        if v_known <> v_request then
            raise exception 'the key was used for another request';
        end if;
        return v_stored;
    end if;
    select * into strict v_from from y_wallets where wallet_id = p_from;
    select * into strict v_to from y_wallets where wallet_id = p_to;
    if v_from.balance < p_amount then
        raise exception 'insufficient funds';
    end if;
    insert into y_events (wallet_id, version, event_id, type, amount, balance_after, payload, occurred_at)
    values
        (p_from, v_from.version + 1, gen_random_uuid(), 'TransferDebited', p_amount, v_from.balance - p_amount,
            jsonb_build_object('fromWalletId', p_from, 'toWalletId', p_to, 'amount', p_amount,
                'newBalance', v_from.balance - p_amount, 'requestId', p_request_id),
            clock_timestamp()),
        (p_to, v_to.version + 1, gen_random_uuid(), 'TransferCredited', p_amount, v_to.balance + p_amount,
            jsonb_build_object('fromWalletId', p_from, 'toWalletId', p_to, 'amount', p_amount,
                'newBalance', v_to.balance + p_amount, 'requestId', p_request_id),
            clock_timestamp());
    v_stored := jsonb_build_object('fromWalletId', p_from, 'toWalletId', p_to, 'amount', p_amount,
        'fromBalance', v_from.balance - p_amount, 'toBalance', v_to.balance + p_amount, 'requestId', p_request_id);
    insert into y_operations (wallet_id, request_id, fingerprint, response)
    values (p_from, p_request_id, v_request, v_stored);
    update y_wallets set balance = v_from.balance - p_amount, version = v_from.version + 1 where wallet_id = p_from;
    update y_wallets set balance = v_to.balance + p_amount, version = v_to.version + 1 where wallet_id = p_to;
    return v_stored;
end
$$;

insert into y_wallets (wallet_id, balance, version)
select 'w' || number, 1000000000, 0 from generate_series(0, 9999) as number;
