"""Who rewrites history with everything that belongs to it is found by the heads that were exported before."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.relay import export_journal_head
from tests.support.verification import as_owner, faults_of, proof_of
from tests.support.written_books import LAST_POSITION, seal_all
from wallet.domain.money import format_money
from wallet.integrity.checks.heads import ExportedHeads, HeadsUnreadable
from wallet.integrity.findings import Check
from wallet.postgres.connections import Connection
from wallet.relay.seal import FILENAME
from wallet.wire.digest import DigestedEvent, DigestedOperation, chain_of, digest_of, encode_payload, serialize_event

REWRITTEN = 113
NEW_REASON = (
    'update events set payload = payload || \'{"reason": "nobody knows"}\''
    " where wallet_id = 'dora' and version in (8, 9)"
)
NEW_REASON_ANSWERED = """
update operations set response = convert_to(
    regexp_replace(convert_from(response, 'UTF8'), 'returned\\. [^"]*"', 'returned. nobody knows"'), 'UTF8')
where request_id = 't3'
"""
CUT_TAIL = (
    "delete from events where wallet_id = 'eve'",
    "delete from operations where wallet_id = 'eve'",
    "delete from wallets where wallet_id = 'eve'",
    "delete from wallet_stats where wallet_id = 'eve'",
    "delete from api_audit where wallet_id = 'eve'",
    "delete from processed_events p where not exists (select from events e where e.event_id = p.event_id)",
    "delete from journal where position = (select max(position) from journal)",
    """update journal_head set (position, chain) =
        (select j.position, j.chain from journal j where j.position is not null order by j.position desc limit 1)""",
)


async def test_heads_that_the_journal_has_are_proved(books_url: str, tmp_path: Path) -> None:
    heads = await export_journal_head(books_url, tmp_path)
    await seal_all(books_url)
    await export_journal_head(books_url, tmp_path)
    [finding] = [each for each in (await proof_of(books_url, heads)).findings if each.check is Check.HEADS]
    assert (finding.checked_count, finding.fault_count, finding.warnings) == (2, 0, [])


async def test_a_tail_cut_off_with_all_that_belongs_to_it_is_found_by_the_heads_alone(
    books_url: str, tmp_path: Path
) -> None:
    heads = await export_journal_head(books_url, tmp_path)
    async with as_owner(books_url) as connection:
        for statement in CUT_TAIL:
            await connection.execute(statement)
    assert await faults_of(books_url) == {}
    faults = await faults_of(books_url, heads)
    assert faults.keys() == {Check.HEADS}
    first = faults[Check.HEADS].first
    assert first is not None
    assert (first.table, first.row) == ("journal", f"position {LAST_POSITION}")
    assert f"the journal ends at {LAST_POSITION - 1}, its tail was cut off" in first.found


async def test_a_tail_rewritten_with_all_that_belongs_to_it_is_found_by_the_heads_alone(
    books_url: str, tmp_path: Path
) -> None:
    async with as_owner(books_url) as connection:
        earlier = await connection.fetchrow("select position, chain from journal where position = $1", REWRITTEN - 1)
        assert earlier is not None
        heads = tmp_path / FILENAME
        heads.write_text(f"{earlier['position']} {earlier['chain'].hex()} 2026-01-01T00:00:00.000000Z\n")
        await export_journal_head(books_url, tmp_path)
        await rewrite(connection, NEW_REASON, NEW_REASON_ANSWERED)
    assert await faults_of(books_url) == {}
    faults = await faults_of(books_url, heads)
    assert faults.keys() == {Check.HEADS}
    first = faults[Check.HEADS].first
    assert first is not None
    assert first.row == f"position {LAST_POSITION}"
    assert f"history was rewritten at positions {REWRITTEN} to {LAST_POSITION}" in first.found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (NEW_REASON, "an answer with the reason nobody knows"),
        (NEW_REASON_ANSWERED, "an answer with the reason 5.0000 more would take wallet rich over its limit"),
        ("update operations set fingerprint = 'transfer:5.0000:carol' where request_id = 't3'", "transfer:5.0000:rich"),
    ],
    ids=["the event", "the answer", "the fingerprint"],
)
async def test_an_event_and_its_operation_that_disagree_are_named_though_digest_and_chain_fit(
    books_url: str, change: str, expected: str
) -> None:
    async with as_owner(books_url) as connection:
        await rewrite(connection, change)
    faults = await faults_of(books_url)
    first = faults[Check.OUTCOMES].first
    assert faults.keys() <= {Check.OUTCOMES, Check.TRANSFERS}
    assert first is not None
    assert first.row == "wallet dora, request t3"
    assert expected in first.expected


async def rewrite(connection: Connection, *changes: str) -> None:
    """Change something of a late batch, then every digest and chain value from there to the head."""
    for change in changes:
        await connection.execute(change)
    rows = await connection.fetch(
        "select batch_id, position, chain from journal where position >= $1 order by position", REWRITTEN - 1
    )
    chain = rows[0]["chain"]
    for row in rows[1:]:
        digest = digest_of(
            [serialize_event(digested(event)) for event in await events_of(connection, row["batch_id"])],
            [DigestedOperation(**operation) for operation in await operations_of(connection, row["batch_id"])],
        )
        chain = chain_of(chain, row["position"], digest)
        await connection.execute(
            "update journal set digest = $2, chain = $3 where batch_id = $1", row["batch_id"], digest, chain
        )
    await connection.execute("update journal_head set chain = $1", chain)


async def events_of(connection: Connection, batch_id: object) -> Sequence[Any]:
    return await connection.fetch(
        "select bucket, wallet_id, version, event_id, type, occurred_at, amount, balance_after, transfer_id,"
        " api_audit_id, payload from events where batch_id = $1 order by ordinal",
        batch_id,
    )


async def operations_of(connection: Connection, batch_id: object) -> Sequence[Any]:
    return await connection.fetch(
        "select bucket, wallet_id, request_id, kind, fingerprint, success, status, refusal, response, api_audit_id"
        " from operations where batch_id = $1 and state = 'final'",
        batch_id,
    )


def digested(event: Any) -> DigestedEvent:
    changed = {
        "payload": encode_payload(msgspec.json.decode(event["payload"])),
        "amount": format_money(event["amount"]),
        "balance_after": format_money(event["balance_after"]),
    }
    return DigestedEvent(**dict(event) | changed)


async def test_the_first_of_several_heads_that_differ_is_named(books_url: str, tmp_path: Path) -> None:
    heads = tmp_path / FILENAME
    lines = [f"{position} {'ab' * 32} 2026-01-01T00:00:00.000000Z\n" for position in (90, 60, 60, 200)]
    heads.write_text(f"0 {'00' * 32} 2026-01-01T00:00:00.000000Z\n" + "".join(lines))
    finding = (await faults_of(books_url, heads))[Check.HEADS]
    assert (finding.checked_count, finding.fault_count) == (4, 3)
    assert finding.first is not None
    assert finding.first.row == "position 60"
    assert "(line 3)" in finding.first.expected


async def test_a_line_that_was_being_written_is_no_fault_and_its_chain_counts_if_it_is_whole(
    books_url: str, tmp_path: Path
) -> None:
    heads = await export_journal_head(books_url, tmp_path)
    whole = heads.read_text()
    for cut in (len(whole) - 5, 20, 2):
        heads.write_text(whole + whole[:cut])
        assert await faults_of(books_url, heads) == {}
    heads.write_text(f"{LAST_POSITION} {'ab' * 32} 2026-01")
    assert (await faults_of(books_url, heads)).keys() == {Check.HEADS}


async def test_what_is_appended_while_the_proof_goes_on_is_left_out(books_url: str, tmp_path: Path) -> None:
    heads = await export_journal_head(books_url, tmp_path)
    known = ExportedHeads.of(heads)
    with heads.open("a") as file:
        file.write(f"200 {'ab' * 32} 2026-01-01T00:00:00.000000Z\n")
    assert [head.position for head in known] == [LAST_POSITION]


async def test_a_file_without_heads_proves_nothing_and_says_so(books_url: str, tmp_path: Path) -> None:
    heads = tmp_path / FILENAME
    heads.touch()
    proof = await proof_of(books_url, heads)
    [finding] = [each for each in proof.findings if each.check is Check.HEADS]
    assert finding.warnings == [f"{heads} contains no head, so a missing tail can't be detected"]


@pytest.mark.parametrize("line", ["garbage", "1 abc 2026", f"-1 {'ab' * 32} now", f"{10**18} {'ab' * 32} now"])
async def test_a_file_that_holds_something_else_is_refused(books_url: str, tmp_path: Path, line: str) -> None:
    heads = await export_journal_head(books_url, tmp_path)
    heads.write_text(f"{heads.read_text()}{line}\n")
    with pytest.raises(HeadsUnreadable, match="Line 2"):
        ExportedHeads.of(heads)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadsUnreadable, match="No such file"):
        ExportedHeads.of(tmp_path / FILENAME)
