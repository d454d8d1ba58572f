"""16: the books are changed directly. Triggers refuse this; if an owner does it, `wallet verify` reports the row."""

from typing import Final

import asyncpg

from tests.fault.laboratory import Laboratory
from tests.support.database import execute, fetch_rows
from tests.support.verification import as_owner, faults_of
from wallet.integrity.findings import Check

REQUESTS = 150
APPEND_ONLY: Final = ("events", "operations", "transfers", "transfer_credits", "api_audit", "journal")
PICK: Final = """
select wallet_id, version from events e
where type = 'FundsDeposited'
    and exists (select from events n where n.bucket = e.bucket and n.wallet_id = e.wallet_id and n.version > e.version)
order by md5(event_id::text || $1)
"""
"""Not a wallet's last event: if that is deleted, the versions have no gap, and only the balance is wrong."""
A_DEPOSIT: Final = "(wallet_id, version) = ($1, $2)"
FORGE: Final = f"""
insert into events select bucket, wallet_id, 1000000, gen_random_uuid(), type, schema_version, amount, balance_after,
    payload, transfer_id, batch_id, 1000, api_audit_id, occurred_at + interval '1 day'
from events where {A_DEPOSIT}
"""
TAMPERINGS: Final = {
    "an amount changed": (f"update events set amount = amount + 1 where {A_DEPOSIT}", Check.VERSIONS),
    "an event deleted": (f"delete from events where {A_DEPOSIT}", Check.VERSIONS),
    "an event forged": (FORGE, Check.VERSIONS),
    "an operation deleted": (
        f"delete from operations where batch_id = (select batch_id from events where {A_DEPOSIT})",
        Check.OUTCOMES,
    ),
    "an answer changed": (
        f"update operations set response = 'x' where batch_id = (select batch_id from events where {A_DEPOSIT})",
        Check.DIGESTS,
    ),
    "a payload changed": (f"update events set payload = payload || '{{\"tip\": 1}}' where {A_DEPOSIT}", Check.DIGESTS),
    "a time changed": (
        f"update events set occurred_at = occurred_at + interval '1 us' where {A_DEPOSIT}",
        Check.DIGESTS,
    ),
    "a chain changed": (
        f"update journal set chain = digest where batch_id = (select batch_id from events where {A_DEPOSIT})",
        Check.POSITIONS,
    ),
    "a balance changed": (
        "update wallets set balance = balance + 1 where wallet_id = $1 and $2::bigint is not null",
        Check.BALANCES,
    ),
    "a journal row deleted": (
        f"delete from journal where batch_id = (select batch_id from events where {A_DEPOSIT})",
        Check.STRAYS,
    ),
}


async def tamper_with_the_books(lab: Laboratory) -> None:
    """A trigger refuses each change; if an owner makes it in a copy, without triggers, `verify` names its row."""
    api, relay, worker = await lab.start_api(), await lab.start_relay(), await lab.start_worker()
    async with lab.load(count=REQUESTS):
        pass
    await lab.at_rest()
    for process in (api, worker, relay):
        await lab.stop(process)
    [(wallet_id, version), *_] = await fetch_rows(lab.database_url, PICK, str(lab.seed))
    for name, (statement, check) in TAMPERINGS.items():
        await _is_refused(lab.database_url, name, statement, wallet_id, version)
        copy = lab.postgres.copy_database(lab.database_url)
        async with as_owner(copy) as owner:
            await owner.execute(statement, wallet_id, version)
        faults = await faults_of(copy)
        assert check in faults, f"{name}: verify found {[found.title for found in faults]} and not {check.title}"
        first = faults[check].first
        assert first is not None
        assert first.row, f"{name}: no row is named"
        lab.note(f"{name}: {check.invariant} {check.title}: {first.table}: {first.row}")
        lab.postgres.drop_database(copy)
    for table in APPEND_ONLY:
        await _is_refused(lab.database_url, f"{table} emptied", f"truncate {table}")
    await _cut_the_tail(lab)


async def _is_refused(database_url: str, name: str, statement: str, *arguments: object) -> None:
    if name in ("a balance changed", "an event forged"):
        return  # The application makes such changes itself, so no trigger can refuse these; only `verify` finds them.
    try:
        await execute(database_url, statement, *arguments)
    except asyncpg.RestrictViolationError:
        return
    raise AssertionError(f"{name}: was not refused")


async def _cut_the_tail(lab: Laboratory) -> None:
    """Delete the last positions with everything that belongs to them: only exported heads show that."""
    heads = lab.exported_heads()
    assert heads is not None, "the relay exported no head when it stopped"
    copy = lab.postgres.copy_database(lab.database_url)
    async with as_owner(copy) as owner:
        await owner.execute("create temporary table cut as select batch_id from journal order by position desc limit 3")
        for table in ("events", "operations", "journal"):
            await owner.execute(f"delete from {table} where batch_id in (select batch_id from cut)")
    faults = await faults_of(copy, heads)
    assert Check.HEADS in faults, f"the tail was cut: verify found {[found.title for found in faults]}"
    first = faults[Check.HEADS].first
    assert first is not None
    lab.note(f"the tail cut off: {first.table}: {first.row}")
    lab.postgres.drop_database(copy)
