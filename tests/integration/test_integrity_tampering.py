"""Whatever someone changes in the books behind our back is found: by a look where it looks, by a pass anywhere."""

import pytest

from tests.integration.test_verify import SPOILT, Spoilt
from tests.support.integrity_monitor import hand_monitor
from tests.support.ledger import deposit, running_ledger, send, transfer
from tests.support.verification import as_owner
from tests.support.written_books import LAST_POSITION, seal_all
from wallet.integrity.findings import Check
from wallet.integrity.monitor.state import JournalHead, Start, Sums

LOOKED_AT = {
    Check.POSITIONS,
    Check.DIGESTS,
    Check.PAYLOADS,
    Check.OUTCOMES,
    Check.VERSIONS,
    Check.BALANCES,
    Check.OVERDRAFTS,
}
ONLY_A_PASS_SEES = {
    "all events of a wallet deleted",  # No event of it is left to lead a look there; its batch does.
    "an unsealed event changed",  # A look follows when it is sealed.
    "a journal row before the first",
}
ASKED_LIVE = {"a transfer stuck"}


def named(names: set[str]) -> list[object]:
    return [pytest.param(SPOILT[name], id=name.replace(" ", "_")) for name in SPOILT if name in names]


SEEN_BY_A_LOOK = {name for name, spoilt in SPOILT.items() if spoilt.check in LOOKED_AT} - ONLY_A_PASS_SEES


@pytest.mark.parametrize("spoilt", named(SEEN_BY_A_LOOK))
async def test_a_look_finds_and_names_what_was_changed_where_it_looks(books_url: str, spoilt: Spoilt) -> None:
    async with as_owner(books_url) as connection:
        await connection.execute(spoilt.sql)
    async with hand_monitor(books_url) as auditor:
        # As if nothing had been looked at yet, so that every wallet and batch is new.
        auditor.state.start = Start(JournalHead(), Sums())
        await auditor.look()
        fault = auditor.faults[spoilt.check]
    assert fault.table == spoilt.table
    assert spoilt.row in fault.row


@pytest.mark.parametrize("spoilt", named(set(SPOILT) - ASKED_LIVE))
async def test_a_pass_finds_and_names_what_was_changed_anywhere(books_url: str, spoilt: Spoilt) -> None:
    async with hand_monitor(books_url) as auditor:
        await auditor.settle()
        async with as_owner(books_url) as connection:
            await connection.execute(spoilt.sql)
        await auditor.pass_over()
        fault = auditor.faults[spoilt.check]
    assert fault.table == spoilt.table
    assert spoilt.row in fault.row
    assert spoilt.expected in fault.expected
    assert spoilt.found in fault.found


CUT = f"""
delete from events where batch_id = (select batch_id from journal where position = {LAST_POSITION});
delete from operations where batch_id = (select batch_id from journal where position = {LAST_POSITION});
delete from wallets where wallet_id = 'eve';
delete from wallet_stats where wallet_id = 'eve';
delete from api_audit where wallet_id = 'eve';
delete from processed_events p where not exists (select from events e where e.event_id = p.event_id);
delete from journal where position = {LAST_POSITION};
update journal_head set position = j.position, chain = j.chain
from journal j where j.position = {LAST_POSITION - 1}
"""


async def test_a_tail_cut_off_so_that_everything_agrees_is_red_until_it_is_back(books_url: str) -> None:
    async with hand_monitor(books_url) as auditor:
        await auditor.settle()
        async with as_owner(books_url) as connection:
            await connection.execute(CUT)
        await auditor.look()
        assert auditor.faults.keys() == {Check.HEADS}
        assert f"position {LAST_POSITION}" in auditor.faults[Check.HEADS].row
        assert "cut off" in auditor.faults[Check.HEADS].found
        async with running_ledger(books_url) as ledger:
            await send(ledger, deposit("alice", 1))
        await seal_all(books_url)
        for _ in range(2):
            await auditor.settle()
            assert auditor.faults.keys() == {Check.HEADS}


async def test_money_in_flight_that_no_transfer_accounts_for_is_red_at_the_next_look(books_url: str) -> None:
    async with hand_monitor(books_url) as auditor:
        await auditor.settle()
        async with as_owner(books_url) as connection:
            await connection.execute("update transfers set status = 'debited' where request_id = 't1'")
        await auditor.look()
        fault = auditor.faults[Check.CONSERVATION]
    assert fault.expected.startswith("in flight 25.0000")
    assert fault.found.startswith("in flight 0.0000")


async def test_a_quiet_wallets_changed_balance_is_red_by_looks_alone(books_url: str) -> None:
    async with hand_monitor(books_url) as auditor:
        await auditor.settle()
        async with as_owner(books_url) as connection:
            await connection.execute("update wallets set balance = balance + 5 where wallet_id = 'bob'")
        auditor.state.weighed = None
        await auditor.look()
        fault = auditor.faults[Check.CONSERVATION]
        assert fault.table == "wallets, events"
        assert fault.expected != fault.found
        assert auditor.is_full_check_wanted


async def test_a_fault_that_was_mended_is_struck_by_a_whole_pass_and_not_before(books_url: str) -> None:
    async with hand_monitor(books_url) as auditor:
        await auditor.settle()
        async with running_ledger(books_url) as ledger:
            await send(ledger, transfer("alice", "bob", 1, "late"))
        await seal_all(books_url)
        # This pass begins before the fault is found, and may have been there before it was made.
        await auditor.pass_on()
        async with as_owner(books_url) as connection:
            await connection.execute("update wallets set balance = balance + 5 where wallet_id = 'alice'")
            await auditor.look()
            assert auditor.faults.keys() == {Check.BALANCES}
            found_at = auditor.faults[Check.BALANCES].found_at
            await auditor.pass_on()
            await connection.execute("update wallets set balance = balance - 5 where wallet_id = 'alice'")
        await auditor.pass_over()
        await auditor.look()
        assert auditor.faults[Check.BALANCES].found_at == found_at
        await auditor.settle()
        assert auditor.faults == {}
