"""Whatever someone changes in the books behind our back, verify finds it and names the row."""

from dataclasses import dataclass

import pytest

from tests.support.api import running_api
from tests.support.database import connected
from tests.support.ledger import deposit, running_ledger, send, send_bulk, transfer, withdraw
from tests.support.verification import as_owner, faults_of, proof_of
from tests.support.written_books import LAST_POSITION, process_all, seal_all
from wallet.domain.commands import Command
from wallet.domain.identifiers import NO_WALLET_BUCKET, WalletId, bucket_of
from wallet.integrity.findings import Check
from wallet.trail.pruning import prune_trail_rows


async def test_untouched_books_are_proved_in_every_point(books_url: str) -> None:
    proof = await proof_of(books_url)
    assert [(finding.check, finding.first) for finding in proof.findings if finding.fault_count] == []
    assert proof.is_clean
    checked_counts = {finding.check: finding.checked_count for finding in proof.findings}
    assert checked_counts.keys() == set(Check) - {Check.HEADS}
    assert checked_counts[Check.VERSIONS] == checked_counts[Check.PAYLOADS] == checked_counts[Check.CONSERVATION] > 100
    assert checked_counts[Check.BALANCES] == 7
    assert checked_counts[Check.TRANSFERS] == 3
    assert checked_counts[Check.POSITIONS] == LAST_POSITION
    assert checked_counts[Check.DIGESTS] == LAST_POSITION + 2
    assert [warning for finding in proof.findings for warning in finding.warnings] == []


async def test_an_empty_database_is_proved_too(database_url: str) -> None:
    proof = await proof_of(database_url)
    assert proof.is_clean
    assert {finding.checked_count for finding in proof.findings} == {0}


@dataclass(frozen=True)
class Spoilt:
    """What the owner did, which check finds it, and how it names the row."""

    sql: str
    check: Check
    table: str
    row: str
    expected: str = ""
    found: str = ""


REPLACED = "convert_to(replace(convert_from(response, 'UTF8'), '{}', '{}'), 'UTF8')"
OTHER_CREDIT = REPLACED.format('"toBalance":"10.0000"', '"toBalance":"1.0000"')
ALICE_3 = "wallet_id = 'alice' and version = 3"
BATCH_AT_7 = "(select batch_id from journal where position = 7)"

SPOILT = {
    "an event's amount changed": Spoilt(
        f"update events set amount = 29 where {ALICE_3}",
        Check.VERSIONS, "events", "wallet alice, version 3", "balance_after 71.0000", "balance_after 70.0000",
    ),
    "an event's amount changed, so money is made": Spoilt(
        f"update events set amount = 29 where {ALICE_3}",
        Check.CONSERVATION, "wallets, events", "the sums", found="1.0000 too little",
    ),
    "an event's balance changed": Spoilt(
        f"update events set balance_after = 700 where {ALICE_3}",
        Check.VERSIONS, "events", "wallet alice, version 3", "balance_after 70.0000", "balance_after 700.0000",
    ),
    "an event's payload changed in what the columns say too": Spoilt(
        f"""update events set payload = payload || '{{"amount": "1.0000"}}' where {ALICE_3}""",
        Check.PAYLOADS, "events", "wallet alice, version 3", "amount 30.0000", "amount 1.0000",
    ),
    "an event's payload changed in what only it says": Spoilt(
        "update events set payload = payload || '{\"reason\": \"none\"}' where wallet_id = 'dora' and version = 8",
        Check.DIGESTS, "journal", "position 113", found="wallet dora, version 8; wallet dora, version 9",
    ),
    "an event's payload replaced": Spoilt(
        f"update events set payload = '[1e400]' where {ALICE_3}",
        Check.PAYLOADS, "events", "wallet alice, version 3", found="not a JSON object",
    ),
    "an event's time changed": Spoilt(
        f"update events set occurred_at = occurred_at - interval '1 day' where {ALICE_3}",
        Check.VERSIONS, "events", "wallet alice, version 3", "occurred_at after", "occurred_at 20",
    ),
    "an event's time changed a little": Spoilt(
        f"update events set occurred_at = occurred_at + interval '1 microsecond' where {ALICE_3}",
        Check.DIGESTS, "journal", "position 2,", found="wallet alice, version 3; wallet alice, request a2",
    ),
    "an event's time made infinite": Spoilt(
        f"update events set occurred_at = 'infinity' where {ALICE_3}",
        Check.VERSIONS, "events", "wallet alice, version 3", "occurred_at after", "none that exists",
    ),
    "an event's type changed to one of the same sign": Spoilt(
        "update events set type = 'FundsDeposited' where wallet_id = 'bob' and version = 2",
        Check.TRANSFERS, "transfers", "wallet alice, transfer", "completed: TransferCompleted TransferCredited",
    ),
    "an event's type changed to an unknown one": Spoilt(
        f"update events set type = 'FundsLost' where {ALICE_3}",
        Check.VERSIONS, "events", "wallet alice, version 3", "known", "FundsLost",
    ),
    "an event deleted in the middle": Spoilt(
        f"delete from events where {ALICE_3}",
        Check.VERSIONS, "events", "wallet alice, version 4", "version 3", "version 4",
    ),
    "an event deleted in the middle, as its batch sees it": Spoilt(
        f"delete from events where {ALICE_3}",
        Check.DIGESTS, "journal", "position 2,", "1 event,", "no events",
    ),
    "an event deleted in the middle, as its outcome sees it": Spoilt(
        f"delete from events where {ALICE_3}",
        Check.OUTCOMES, "operations", "wallet alice, request a2", "FundsWithdrawn", "none",
    ),
    "a wallet's last event deleted": Spoilt(
        "delete from events where wallet_id = 'eve' and version = 2",
        Check.BALANCES, "wallets", "wallet eve", "version 1", "version 2",
    ),
    "all events of a wallet deleted": Spoilt(
        "delete from events where wallet_id = 'eve'",
        Check.BALANCES, "wallets", "wallet eve", "no event", "version 2",
    ),
    "a wallet deleted": Spoilt(
        "delete from wallets where wallet_id = 'eve'",
        Check.BALANCES, "wallets", "wallet eve", "a row at version 2", "no row",
    ),
    "an event forged in a separate batch": Spoilt(
        """insert into events
            select bucket, wallet_id, 3, gen_random_uuid(), type, 1, amount, balance_after + amount,
                payload || '{"newBalance": "14.0000"}', null, gen_random_uuid(), 0, api_audit_id, now()
            from events where wallet_id = 'eve' and version = 2""",
        Check.STRAYS, "events", "wallet eve, version 3", "in the journal", "no such batch",
    ),
    "an event forged in a batch that is there": Spoilt(
        f"""insert into events
            select bucket, wallet_id, 3, gen_random_uuid(), type, 1, amount, balance_after + amount,
                payload || '{{"newBalance": "14.0000"}}', null, {BATCH_AT_7}, 1, api_audit_id, now()
            from events where wallet_id = 'eve' and version = 2""",
        Check.DIGESTS, "journal", "position 7,", "1 event,", "1 (wallet eve, version 3)",
    ),
    "an event forged that repeats a request": Spoilt(
        """insert into events
            select bucket, wallet_id, 3, gen_random_uuid(), type, 1, amount, balance_after + amount,
                payload || '{"newBalance": "14.0000"}', null, batch_id, 2, api_audit_id, now()
            from events where wallet_id = 'eve' and version = 2""",
        Check.OUTCOMES, "events", "wallet eve, version 3", "the only effect of request e1", "version 2",
    ),
    "a gap made in the versions": Spoilt(
        "update events set version = 12 where wallet_id = 'alice' and version = 9",
        Check.VERSIONS, "events", "wallet alice, version 12", "version 9",
    ),
    "an event moved to another wallet": Spoilt(
        "update events set wallet_id = 'mallory', bucket = wallet_bucket('mallory') where wallet_id = 'eve'",
        Check.PAYLOADS, "events", "wallet mallory, version 1", "walletId mallory", "walletId eve",
    ),
    "a success deleted": Spoilt(
        "delete from operations where request_id = 'a2'",
        Check.OUTCOMES, "events", "wallet alice, version 3", "the outcome of request a2", "none",
    ),
    "a refusal deleted": Spoilt(
        "delete from operations where request_id = 'a3'",
        Check.DIGESTS, "journal", "position 3,", "at least one event or outcome", "neither",
    ),
    "an outcome's response changed": Spoilt(
        "update operations set response = convert_to('{}', 'UTF8') where request_id = 'a3'",
        Check.DIGESTS, "journal", "position 3,", found="wallet alice, request a3",
    ),
    "an outcome turned into a refusal": Spoilt(
        "update operations set success = false, refusal = 'insufficient_funds' where request_id = 'a2'",
        Check.OUTCOMES, "operations", "wallet alice, request a2", "no event", "FundsWithdrawn",
    ),
    "an operation forged": Spoilt(
        """insert into operations
            select bucket, wallet_id, 'forged', kind, fingerprint, state, success, status, refusal, response,
                gen_random_uuid(), api_audit_id
            from operations where request_id = 'a3'""",
        Check.STRAYS, "operations", "wallet alice, request forged", "in the journal",
    ),
    "a journal row deleted in the middle": Spoilt(
        "delete from journal where position = 7",
        Check.POSITIONS, "journal", "position 8,", "position 7", "position 8",
    ),
    "a journal row deleted in the middle, as its events see it": Spoilt(
        "delete from journal where position = 7",
        Check.STRAYS, "events", "wallet dora, version 4", "in the journal",
    ),
    "the journal's last row deleted": Spoilt(
        f"delete from journal where position = {LAST_POSITION}",
        Check.POSITIONS, "journal_head", "only row", f"position {LAST_POSITION - 1}", f"position {LAST_POSITION}",
    ),
    "an unsealed journal row deleted": Spoilt(
        "delete from journal where position is null",
        Check.STRAYS, "events", "wallet frank, version 1",
    ),
    "an unsealed event changed": Spoilt(
        "update events set api_audit_id = gen_random_uuid() where wallet_id = 'frank' and version = 2",
        Check.DIGESTS, "journal", "unsealed, batch", found="wallet frank, version 2",
    ),
    "a digest changed": Spoilt(
        "update journal set digest = sha256('x') where position = 7",
        Check.DIGESTS, "journal", "position 7,", found="wallet dora, version 4",
    ),
    "a digest changed, as the chain sees it": Spoilt(
        "update journal set digest = sha256('x') where position = 7",
        Check.POSITIONS, "journal", "position 7,", "chain",
    ),
    "a chain value changed": Spoilt(
        "update journal set chain = sha256('x') where position = 7",
        Check.POSITIONS, "journal", "position 7,", "chain", "chain",
    ),
    "the number of events changed": Spoilt(
        "update journal set event_count = 2 where position = 7",
        Check.DIGESTS, "journal", "position 7,", "2 events", "1 event,",
    ),
    "the head moved back": Spoilt(
        "update journal_head set position = 7, chain = (select chain from journal where position = 7)",
        Check.POSITIONS, "journal_head", "only row", f"position {LAST_POSITION}", "position 7",
    ),
    "a journal row before the first": Spoilt(
        "update journal set position = -7 where position = 7",
        Check.POSITIONS, "journal", "position -7,", "position 1", "position -7",
    ),
    "a wallet's balance changed": Spoilt(
        "update wallets set balance = balance + 5 where wallet_id = 'alice'",
        Check.BALANCES, "wallets", "wallet alice", "balance 35.0000", "balance 40.0000",
    ),
    "a wallet's balance changed, so money is made": Spoilt(
        "update wallets set balance = balance + 5 where wallet_id = 'alice'",
        Check.CONSERVATION, "wallets, events", "the sums", found="5.0000 too much",
    ),
    "an outcome of a kind that only a newer version knows": Spoilt(
        """alter table operations drop constraint operations_kind_known;
            update operations set kind = 'bonus' where request_id = 'a2'""",
        Check.OUTCOMES, "operations", "wallet alice, request a2", "a kind that this version knows", "kind bonus",
    ),
    "a wallet's currency changed": Spoilt(
        "update wallets set currency = 'EUR' where wallet_id = 'alice'",
        Check.BALANCES, "wallets", "wallet alice", "USD", "EUR",
    ),
    "the time of a wallet's last event changed": Spoilt(
        "update wallets set last_event_at = last_event_at + interval '1 us' where wallet_id = 'alice'",
        Check.BALANCES, "wallets", "wallet alice", "last_event_at", "last_event_at",
    ),
    "the time of a wallet's last event beyond all times": Spoilt(
        "update wallets set last_event_at = 'infinity' where wallet_id = 'alice'",
        Check.BALANCES, "wallets", "wallet alice", "last_event_at", "last_event_at infinity",
    ),
    "a balance below zero": Spoilt(
        """alter table wallets drop constraint wallets_balance_not_negative;
            update wallets set balance = -1 where wallet_id = 'alice'""",
        Check.OVERDRAFTS, "wallets", "wallet alice", "0 or more", "-1.0000",
    ),
    "a transfer stuck": Spoilt(
        """update transfers set status = 'debited', updated_at = now() - interval '61 seconds'
            where request_id = 't2'""",
        Check.TRANSFERS, "transfers", "wallet alice, transfer", "within 60 s", "debited 61 s ago",
    ),
    "a transfer without events": Spoilt(
        """insert into transfers
            select bucket, from_wallet_id, gen_random_uuid(), to_wallet_id, amount, currency, status, 'forged',
                api_audit_id, null, now(), now()
            from transfers where request_id = 't1'""",
        Check.TRANSFERS, "transfers", "wallet alice, transfer", "completed", "no event",
    ),
    "a transfer deleted": Spoilt(
        "delete from transfers where request_id = 't1'",
        Check.TRANSFERS, "events", "wallet alice, version 4", "transfer", "TransferCompleted",
    ),
    "a transfer's amount changed": Spoilt(
        "update transfers set amount = 24 where request_id = 't1'",
        Check.TRANSFERS, "transfers", "wallet alice, transfer", "completed", "another amount",
    ),
    "a failed transfer called completed": Spoilt(
        "update transfers set status = 'completed' where request_id = 't3'",
        Check.TRANSFERS, "transfers", "wallet dora, transfer", "completed", "TransferCompensated",
    ),
    "the receiver's word deleted": Spoilt(
        "update transfer_credits set outcome = 'credited', reason = null, event_version = 2, balance_after = 0"
        " where to_wallet_id = 'rich'",
        Check.TRANSFERS, "transfer_credits", "transfer", found="the transfer is failed",
    ),
    "an event taken out of the inbox and forged there": Spoilt(
        "insert into processed_events values (0, gen_random_uuid(), 'success', null, 1, now())",
        Check.DELIVERY, "processed_events", "event ", "an event in the log", "none",
    ),
    "an event's schema version changed": Spoilt(
        f"update events set schema_version = 2 where {ALICE_3}",
        Check.PAYLOADS, "events", "wallet alice, version 3", "schema_version 1", "schema_version 2",
    ),
    "a success's answer changed in what its event says": Spoilt(
        f"update operations set response = {REPLACED.format('70.0000', '700.0000')} where request_id = 'a2'",
        Check.OUTCOMES, "operations", "wallet alice, request a2", "balance 70.0000", "balance 700.0000",
    ),
    "a success's answer made unreadable": Spoilt(
        "update operations set response = '[' where request_id = 'a2'",
        Check.OUTCOMES, "operations", "wallet alice, request a2", "walletId alice", "no JSON object",
    ),
    "a refusal's answer changed": Spoilt(
        f"update operations set response = {REPLACED.format('insufficient_funds', 'wallet_not_found')}"
        " where request_id = 'a3'",
        Check.OUTCOMES, "operations", "wallet alice, request a3", "code insufficient_funds", "code wallet_not_found",
    ),
    "a stepwise transfer's answer changed in what the receiver got": Spoilt(
        f"update operations set response = {OTHER_CREDIT}"
        " where request_id = 't2'",
        Check.OUTCOMES, "operations", "wallet alice, request t2", "toBalance 10.0000", "toBalance 1.0000",
    ),
    "a failed transfer's answer changed": Spoilt(
        f"update operations set response = {REPLACED.format('over its limit', 'beyond its limit')}"
        " where request_id = 't3'",
        Check.OUTCOMES, "operations", "wallet dora, request t3", "an answer with the reason", "beyond its limit",
    ),
    "a fingerprint changed": Spoilt(
        "update operations set fingerprint = 'withdraw:3.0000:' where request_id = 'a2'",
        Check.OUTCOMES, "operations", "wallet alice, request a2", "fingerprint withdraw:30.0000:", "withdraw:3.0000:",
    ),
    "a refusal's fingerprint changed": Spoilt(
        "update operations set fingerprint = 'deposit:3.0000:' where request_id = 'a3'",
        Check.OUTCOMES, "operations", "wallet alice, request a3", "the fingerprint of a withdraw", "deposit:3.0000:",
    ),
    "a fingerprint made an atomic one": Spoilt(
        f"update operations set fingerprint = 'atomic:{'0' * 64}:0' where request_id = 'a2'",
        Check.OUTCOMES, "operations", "wallet alice, request a2", "as its events have it", f"atomic:{'0' * 64}:0",
    ),
    "a success's status changed": Spoilt(
        "update operations set status = 500 where request_id = 'a2'",
        Check.OUTCOMES, "operations", "wallet alice, request a2", "status 201", "status 500",
    ),
    "an outcome's audit id changed": Spoilt(
        "update operations set api_audit_id = gen_random_uuid() where request_id = 'a2'",
        Check.OUTCOMES, "operations", "wallet alice, request a2", "as its event has it", "audit id",
    ),
    "a pending deposit planted": Spoilt(
        """insert into operations
            select bucket, wallet_id, 'planted', kind, fingerprint, 'pending', null, null, null, null, batch_id,
                api_audit_id
            from operations where request_id = 'a1'""",
        Check.TRANSFERS, "operations", "wallet alice, request planted", "belongs to a pending operation", "none",
    ),
    "a transfer's fingerprint changed": Spoilt(
        "update operations set fingerprint = 'transfer:25.0000:carol' where request_id = 't1'",
        Check.TRANSFERS, "operations", "wallet alice, request t1", "transfer:25.0000:bob", "transfer:25.0000:carol",
    ),
    "a row of the audit trail deleted": Spoilt(
        "delete from api_audit where request_id = 'a2'",
        Check.TRAIL, "api_audit", "(wallet alice, request a2)", "POST of a withdraw", "no row, and no record",
    ),
    "a refusal's row of the audit trail deleted": Spoilt(
        "delete from api_audit where request_id = 'a3'",
        Check.TRAIL, "api_audit", "(wallet alice, request a3)", "status 400", "no row, and no record",
    ),
    "a status in the audit trail changed": Spoilt(
        "update api_audit set status = 400 where request_id = 't2'",
        Check.TRAIL, "api_audit", "(wallet alice, request t2)", "status 201", "status 400",
    ),
    "an address in the audit trail changed": Spoilt(
        "update api_audit set url = '/wallet/alice/deposit' where request_id = 'a2'",
        Check.TRAIL, "api_audit", "(wallet alice, request a2)", "POST of a withdraw", "/wallet/alice/deposit",
    ),
    "a request's key in the audit trail changed": Spoilt(
        "update api_audit set request_id = 'other' where request_id = 'a2'",
        Check.TRAIL, "api_audit", "(wallet alice, request a2)", "with this wallet and request id", "request other",
    ),
    "a body in the audit trail changed": Spoilt(
        "update api_audit set body = '[]' where request_id = 'a2'",
        Check.TRAIL, "api_audit", "(wallet alice, request a2)", "POST of a withdraw", "does not match its digest",
    ),
    "an audit row's body replaced by one with a replacement character": Spoilt(
        "update api_audit set body = 'x' || chr(65533) where request_id = 'a2'",
        Check.TRAIL, "api_audit", "(wallet alice, request a2)", "POST of a withdraw", "does not match its digest",
    ),
    "an audit row's body replaced, and its length": Spoilt(
        "update api_audit set body = '{}', body_length = 5000 where request_id = 'a2'",
        Check.TRAIL, "api_audit", "(wallet alice, request a2)", "POST of a withdraw", "does not match its digest",
    ),
    "an audit row's wallet changed in its path": Spoilt(
        "update api_audit set url = '/wallet/mallory/withdraw' where request_id = 'a2'",
        Check.TRAIL, "api_audit", "(wallet alice, request a2)", "POST of a withdraw", "/wallet/mallory/withdraw",
    ),
    "an audit row's path changed to one with escapes": Spoilt(
        "update api_audit set url = '/%25' where request_id = 'a2'",
        Check.TRAIL, "api_audit", "(wallet alice, request a2)", "POST of a withdraw", "/%25",
    ),
    "an audit row's time changed": Spoilt(
        """update api_audit set "timestamp" = "timestamp" - interval '10 years' where request_id = 'a2'""",
        Check.TRAIL, "api_audit", "(wallet alice, request a2)", "POST of a withdraw", "a time that does not match",
    ),
    "an audit row of a success planted": Spoilt(
        """insert into api_audit select bucket, gen_random_uuid(), method, url, body, body_length, body_sha256, headers,
            client_ip, status, wallet_id, 'planted', "timestamp" from api_audit where request_id = 'a2'""",
        Check.TRAIL, "api_audit", "(wallet alice, request planted)", "an outcome of this key", "status 201",
    ),
    "a failed event without its dead letter": Spoilt(
        """update processed_events set status = 'failed', error_message = 'lost'
            where event_id = (select event_id from events where wallet_id = 'eve' and version = 2)""",
        Check.DELIVERY, "processed_events", "(wallet eve, version 2)", "a dead letter", "lost",
    ),
    "a total changed": Spoilt(
        "update wallet_stats set total_withdrawn = 31 where wallet_id = 'alice'",
        Check.PROJECTIONS, "wallet_stats", "wallet alice", "withdrawn 30.0000", "withdrawn 31.0000",
    ),
    "a suspicion taken away": Spoilt(
        "update wallet_stats set suspicious = false, suspicious_reason = null where wallet_id = 'dora'",
        Check.PROJECTIONS, "wallet_stats", "wallet dora", "withdrawal of 12000.0000", "None",
    ),
    "an alert forged": Spoilt(
        "insert into fraud_alerts values (0, 'alice', 'large_withdrawal', gen_random_uuid(), 'forged', now())",
        Check.PROJECTIONS, "fraud_alerts", "wallet alice, rule large_withdrawal", "processed", "none",
    ),
}  # fmt: skip


@pytest.mark.parametrize("spoilt", SPOILT.values(), ids=[name.replace(" ", "_") for name in SPOILT])
async def test_what_the_owner_changed_is_found_and_named(books_url: str, spoilt: Spoilt) -> None:
    async with as_owner(books_url) as connection:
        await connection.execute(spoilt.sql)
    faults = await faults_of(books_url)
    first = faults[spoilt.check].first
    assert first is not None
    assert first.table == spoilt.table
    assert spoilt.row in first.row
    assert spoilt.expected in first.expected
    assert spoilt.found in first.found


async def test_atomic_requests_are_proved_from_what_their_operations_did(database_url: str) -> None:
    async with running_ledger(database_url) as ledger:
        done: list[Command] = [
            deposit("ann", 5, "1"),
            deposit("ben", 7, "2"),
            transfer("ann", "ben", 2, "3"),
            withdraw("ben", 9, "4"),
        ]
        assert (await send_bulk(ledger, done, is_atomic=True)).refusal is None
        refused = await send_bulk(ledger, [deposit("ann", 1, "5"), withdraw("ann", 100, "6")], is_atomic=True)
        assert refused.refusal is not None
        await send_bulk(ledger, [deposit("cat", 1, "7"), withdraw("cat", 2, "8")])
    await seal_all(database_url)
    await process_all(database_url)
    assert await faults_of(database_url) == {}
    async with as_owner(database_url) as connection:
        for change in (
            "fingerprint = replace(fingerprint, ':1', ':2')",
            "fingerprint = regexp_replace(fingerprint, ':[0-9a-f]{64}:', ':' || repeat('a', 64) || ':')",
        ):
            copied = "create temporary table kept as select request_id, fingerprint from operations"
            await connection.execute(copied)
            await connection.execute(f"update operations set {change} where request_id in ('2', '6')")
            first = (await faults_of(database_url))[Check.OUTCOMES].first
            assert first is not None
            assert first.table == "operations"
            await connection.execute(
                """update operations o set fingerprint = k.fingerprint from kept k where k.request_id = o.request_id;
                drop table kept"""
            )
        await connection.execute("delete from api_audit where wallet_id is null and status <> 200")
        first = (await faults_of(database_url))[Check.TRAIL].first
    assert first is not None
    assert "(wallet ann, request 5)" in first.row


async def test_rows_of_the_trail_that_were_pruned_are_no_fault_and_those_deleted_afterwards_are(books_url: str) -> None:
    async with connected(books_url) as connection:
        now = await connection.fetchval("select clock_timestamp()")
        assert await prune_trail_rows(connection, now, actor="ann", reason="a test") > 100
    assert await faults_of(books_url) == {}
    async with running_ledger(books_url) as ledger:
        await send(ledger, deposit("alice", 1, "later"))
    assert await faults_of(books_url) == {}
    async with as_owner(books_url) as connection:
        await connection.execute("delete from api_audit where request_id = 'later'")
    faults = await faults_of(books_url)
    assert faults.keys() == {Check.TRAIL}
    assert faults[Check.TRAIL].fault_count == 1


async def test_paths_as_clients_may_write_them_are_no_fault(database_url: str) -> None:
    """Escapes, a slash at the end, and a wallet in bucket 0, where the rows of bulk requests are too."""
    assert bucket_of(WalletId("w17")) == NO_WALLET_BUCKET
    async with running_api(database_url) as api:
        for number, path in enumerate(("/wallet/w17/deposit", "/wallet/%7717/deposit", "/wallet/w%317/deposit/")):
            assert (await api.post(path, f'{{"amount":1,"requestId":"k{number}"}}')).status == 201
        operation = '{"type":"deposit","walletId":"w17","amount":1,"requestId":"%s"}'
        for number, path in enumerate(("/operations", "/%6fperations/")):
            body = '{"mode":"independent","operations":[' + operation % f"b{number}" + "]}"
            assert (await api.post(path, body)).status == 200
    assert await faults_of(database_url) == {}
