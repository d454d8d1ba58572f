"""The checker on a real load: it is clean, and a deposit that an owner deletes is found only by the history.

If an answered commit is deleted without a trace, the remaining books are consistent and `wallet verify` finds
nothing. Only the client knows the key.
"""

from itertools import count as count_from
from pathlib import Path

import pytest

from tests.fault.checker import ANSWERS_STORED, EVENTS_MATCH, REFUSALS_DUE, check_history
from tests.fault.evidence import read_evidence
from tests.fault.load import History, load_on
from tests.support.books import assert_pipeline_is_quiet_and_right
from tests.support.database import fetch_rows
from tests.support.processes import Processes
from tests.support.relay import relay_settings, running_relay
from tests.support.verification import as_owner, proof_of
from tests.support.worker import running_worker
from wallet.stress.findings import EXACT, ONE_EFFECT
from wallet.stress.operations import OperationKind, Plan, PlannedRequest

WALLETS = 4
REQUESTS = 300
CONCURRENCY = 16
A_REFUSAL = """
select o.request_id from operations o
where o.refusal = 'insufficient_funds' and not exists (select from events e where e.batch_id = o.batch_id)
"""
TAKE_BACK = """
with gone as (
    delete from operations where request_id = $1 returning bucket, wallet_id, batch_id, api_audit_id
), of_journal as (
    delete from journal j using gone where j.batch_id = gone.batch_id
), of_audit as (
    delete from api_audit a using gone where a.api_audit_id = gone.api_audit_id
), of_events as (
    delete from events e using gone where e.batch_id = gone.batch_id returning e.bucket, e.wallet_id, e.version
), left_over as (
    select distinct on (e.bucket, e.wallet_id) e.bucket, e.wallet_id, e.version, e.balance_after, e.occurred_at
    from events e join of_events o on o.bucket = e.bucket and o.wallet_id = e.wallet_id and e.version < o.version
    order by e.bucket, e.wallet_id, e.version desc
)
update wallets w set balance = l.balance_after, version = l.version, last_event_at = l.occurred_at
from left_over l where l.bucket = w.bucket and l.wallet_id = w.wallet_id
"""


async def play(
    database_url: str, processes: Processes, plan: Plan, *, concurrency: int, count: int = REQUESTS, mode: str = "auto"
) -> History:
    """Run a load on a running api, without a relay or a worker."""
    api = processes.start_api(DATABASE_URL=database_url, TRANSFER_MODE=mode)
    async with load_on([api.url], database_url, plan, concurrency=concurrency, count=count) as history:
        pass
    api.stop()
    return history


def plan_for(seed: int) -> Plan:
    return Plan(seed, f"{seed:x}", WALLETS)


async def take_back(database_url: str, key: str) -> None:
    """Delete the key's whole batch, as the owner, and reset its wallet to the state before."""
    async with as_owner(database_url) as connection:
        await connection.execute(TAKE_BACK, key)


async def come_to_rest(database_url: str, log_dir: Path) -> None:
    """Seal and process everything that was committed."""
    settings = relay_settings(database_url, None, log_dir)
    async with running_relay(settings), running_worker(database_url, None):
        await assert_pipeline_is_quiet_and_right(database_url)


async def faults_of(database_url: str, history: History) -> dict[str, tuple[str, ...]]:
    books = await read_evidence(database_url, history)
    return {check.promise: check.faults for check in check_history(books, history.sums) if check.faults}


@pytest.mark.parametrize("mode", ["auto", "stepwise"])
async def test_a_real_run_is_clean(
    database_url: str, processes: Processes, tmp_path: Path, seed: int, mode: str
) -> None:
    history = await play(database_url, processes, plan_for(seed), concurrency=CONCURRENCY, mode=mode)
    await come_to_rest(database_url, tmp_path)
    assert await faults_of(database_url, history) == {}
    assert len(history.exchanges) == REQUESTS
    assert history.sums, "nobody summed the books meanwhile"
    seen = {check.promise: check.seen for check in check_history(await read_evidence(database_url, history), [])}
    assert seen[REFUSALS_DUE] != "0 refusals"


async def test_a_deposit_that_is_gone_without_a_trace_is_seen_by_the_history_alone(
    database_url: str, processes: Processes, tmp_path: Path, seed: int
) -> None:
    plan = plan_for(seed)
    last = next(number for number in count_from(REQUESTS) if is_new_deposit(plan.request(number)))
    history = await play(database_url, processes, plan, concurrency=1, count=last + 1)
    lost = plan.request(last).operation
    await take_back(database_url, lost.key)
    await come_to_rest(database_url, tmp_path)
    assert (await proof_of(database_url)).is_clean
    found = await faults_of(database_url, history)
    for promise in (ONE_EFFECT, EVENTS_MATCH, ANSWERS_STORED):
        assert {fault.partition(" (")[0] for fault in found[promise]} == {lost.key}
    (fault,) = found[EXACT]
    assert fault.startswith(f"{lost.wallet_id} has ")
    assert fault.endswith(f"({-lost.amount:+.4f})")


async def test_a_refusal_that_is_gone_without_a_trace_is_seen_by_the_history_alone(
    database_url: str, processes: Processes, tmp_path: Path, seed: int
) -> None:
    history = await play(database_url, processes, plan_for(seed), concurrency=1)
    key = (await fetch_rows(database_url, A_REFUSAL))[0][0]
    await take_back(database_url, key)
    await come_to_rest(database_url, tmp_path)
    assert (await proof_of(database_url)).is_clean
    found = await faults_of(database_url, history)
    assert list(found) == [ANSWERS_STORED]
    assert {fault.partition(" (")[0] for fault in found[ANSWERS_STORED]} == {key}


def is_new_deposit(request: PlannedRequest) -> bool:
    return request.operation.kind is OperationKind.DEPOSIT and request.operation.key.endswith(f"-{request.number}")
