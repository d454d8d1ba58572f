"""A change of the books by their owner is found: by an incremental check in what it reads, by a full check anywhere."""

import pytest

from tests.integration.test_verify import SPOILT, Spoilt
from tests.support.integrity_monitor import hand_monitor
from tests.support.ledger import deposit, running_ledger, send, transfer
from tests.support.verification import as_owner
from tests.support.written_books import LAST_POSITION, seal_all
from wallet.integrity.findings import Check
from wallet.integrity.monitor.state import JournalHead, Start, Sums

CHECKED_INCREMENTALLY = {
    Check.POSITIONS,
    Check.DIGESTS,
    Check.PAYLOADS,
    Check.OUTCOMES,
    Check.VERSIONS,
    Check.BALANCES,
    Check.OVERDRAFTS,
}
ONLY_BY_A_FULL_CHECK = {
    "all events of a wallet deleted",  # No event of it is left that leads an incremental check there; its batch does.
    "an unsealed event changed",  # An incremental check reads it when it is sealed.
    "a journal row before the first",
}
ASKED_LIVE = {"a transfer stuck"}


def named(names: set[str]) -> list[object]:
    return [pytest.param(SPOILT[name], id=name.replace(" ", "_")) for name in SPOILT if name in names]


FOUND_INCREMENTALLY = {
    name for name, spoilt in SPOILT.items() if spoilt.check in CHECKED_INCREMENTALLY
} - ONLY_BY_A_FULL_CHECK


@pytest.mark.parametrize("spoilt", named(FOUND_INCREMENTALLY))
async def test_an_incremental_check_finds_and_names_a_change_in_what_it_reads(books_url: str, spoilt: Spoilt) -> None:
    async with as_owner(books_url) as connection:
        await connection.execute(spoilt.sql)
    async with hand_monitor(books_url) as monitor:
        # As if nothing had been checked yet, so that every wallet and batch is new.
        monitor.state.start = Start(JournalHead(), Sums())
        await monitor.check_new()
        fault = monitor.faults[spoilt.check]
    assert fault.table == spoilt.table
    assert spoilt.row in fault.row


@pytest.mark.parametrize("spoilt", named(set(SPOILT) - ASKED_LIVE))
async def test_a_full_check_finds_and_names_a_change_anywhere(books_url: str, spoilt: Spoilt) -> None:
    async with hand_monitor(books_url) as monitor:
        await monitor.check_all()
        async with as_owner(books_url) as connection:
            await connection.execute(spoilt.sql)
        await monitor.pass_over()
        fault = monitor.faults[spoilt.check]
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
    async with hand_monitor(books_url) as monitor:
        await monitor.check_all()
        async with as_owner(books_url) as connection:
            await connection.execute(CUT)
        await monitor.check_new()
        assert monitor.faults.keys() == {Check.HEADS}
        assert f"position {LAST_POSITION}" in monitor.faults[Check.HEADS].row
        assert "cut off" in monitor.faults[Check.HEADS].found
        async with running_ledger(books_url) as ledger:
            await send(ledger, deposit("alice", 1))
        await seal_all(books_url)
        for _ in range(2):
            await monitor.check_all()
            assert monitor.faults.keys() == {Check.HEADS}


async def test_money_in_flight_that_no_transfer_accounts_for_is_red_at_the_next_incremental_check(
    books_url: str,
) -> None:
    async with hand_monitor(books_url) as monitor:
        await monitor.check_all()
        async with as_owner(books_url) as connection:
            await connection.execute("update transfers set status = 'debited' where request_id = 't1'")
        await monitor.check_new()
        fault = monitor.faults[Check.CONSERVATION]
    assert fault.expected.startswith("in flight 25.0000")
    assert fault.found.startswith("in flight 0.0000")


async def test_a_quiet_wallets_changed_balance_is_red_by_incremental_checks_alone(books_url: str) -> None:
    async with hand_monitor(books_url) as monitor:
        await monitor.check_all()
        async with as_owner(books_url) as connection:
            await connection.execute("update wallets set balance = balance + 5 where wallet_id = 'bob'")
        monitor.state.balance_sum = None
        await monitor.check_new()
        fault = monitor.faults[Check.CONSERVATION]
        assert fault.table == "wallets, events"
        assert fault.expected != fault.found
        assert monitor.is_full_check_wanted


async def test_a_fault_that_was_fixed_is_removed_by_a_whole_full_check_and_not_before(books_url: str) -> None:
    async with hand_monitor(books_url) as monitor:
        await monitor.check_all()
        async with running_ledger(books_url) as ledger:
            await send(ledger, transfer("alice", "bob", 1, "late"))
        await seal_all(books_url)
        # This full check begins before the fault is found, and may have read the row before it was changed.
        await monitor.pass_on()
        async with as_owner(books_url) as connection:
            await connection.execute("update wallets set balance = balance + 5 where wallet_id = 'alice'")
            await monitor.check_new()
            assert monitor.faults.keys() == {Check.BALANCES}
            found_at = monitor.faults[Check.BALANCES].found_at
            await monitor.pass_on()
            await connection.execute("update wallets set balance = balance - 5 where wallet_id = 'alice'")
        await monitor.pass_over()
        await monitor.check_new()
        assert monitor.faults[Check.BALANCES].found_at == found_at
        await monitor.check_all()
        assert monitor.faults == {}
