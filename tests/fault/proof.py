"""Checks I1 to I12 after every experiment, whatever it broke, and reports what was checked."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import psutil

from tests.fault.checker import check_history
from tests.fault.evidence import read_evidence
from tests.fault.load import History
from tests.fault.orders import fields_of
from tests.support.books import assert_no_transfer_is_unfinished, wait_until_quiet
from tests.support.database import execute, fetch_rows, fetch_value
from tests.support.processes import WalletProcess
from tests.support.verification import proof_of
from tests.support.waiting import eventually
from wallet.integrity.monitor.state import decode_state
from wallet.stress.exchanges import NoAnswer, ServiceAnswer
from wallet.stress.findings import RunCheck, check_of, count_of

REST_SECONDS_MAX = 60.0
MEMORY_BYTES_MAX = 500_000_000
DESCRIPTORS_MAX = 500
EXAMPLE_REPORT = """
select wallet_id, request_id, count(*), count(*) filter (where status < 500)
from api_audit where method = 'POST' group by wallet_id, request_id
"""
SESSIONS_LEFT_OPEN = """
select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'
"""


@dataclass(frozen=True, slots=True)
class Proof:
    """The checks of an experiment, and the results of its requests."""

    checks: Sequence[RunCheck]
    request_count: int
    tries: Counter[str]

    @property
    def is_clean(self) -> bool:
        """Returns whether every promise was kept."""
        return not any(check.faults for check in self.checks)

    def lines(self) -> Iterator[str]:
        """Yields one line for a promise that was kept, and the first faults of one that was broken."""
        for check in self.checks:
            if not check.faults:
                yield f"✓ {check.promise:<28}  {check.seen}"
            else:
                yield f"✗ {check.promise:<28}  {count_of(len(check.faults), 'fault')}"
                yield from (f"    {fault}" for fault in check.faults[:5])

    def summary(self) -> str:
        """Returns the number of each kind of answer, in one line."""
        answers = ", ".join(f"{count:,} × {what}" for what, count in sorted(self.tries.items()))
        return f"{count_of(self.request_count, 'request')}: {answers}" if answers else "every promise was kept"


async def wait_for_rest(database_url: str, apis: Sequence[WalletProcess], *, has_dead_letters: bool) -> None:
    """Wait for I11 and I6: no event waits, no session hangs, every running api is ready. Raises AssertionError."""
    await wait_until_quiet(database_url, within=REST_SECONDS_MAX, has_dead_letters=has_dead_letters)

    async def has_no_open_session() -> bool:
        return bool(await fetch_value(database_url, SESSIONS_LEFT_OPEN) == 0)

    await eventually(has_no_open_session, within=REST_SECONDS_MAX)
    async with httpx.AsyncClient(trust_env=False) as client:
        for api in apis:

            async def is_ready(url: str = api.url) -> bool:
                return (await client.get(f"{url}/readyz")).status_code == httpx.codes.OK

            await eventually(is_ready, within=REST_SECONDS_MAX)


async def prove(
    database_url: str, histories: Sequence[History], running: Sequence[WalletProcess], heads: Path | None
) -> Proof:
    """Run every check on every history, and `wallet verify`."""
    # Without statistics the anti-joins of the proof take minutes over the tables of a busy experiment.
    await execute(database_url, "analyze")
    checks: list[RunCheck] = []
    for history in histories:
        checks += check_history(await read_evidence(database_url, history), history.sums)
    checks.append(await _trail(database_url, histories))
    checks.append(await _transfers(database_url))
    checks.append(await _verify(database_url, heads))
    checks.append(await _monitor(database_url))
    checks.append(check_of("processes stay small", count_of(len(running), "process", "processes"), map(_size, running)))
    return Proof(checks, sum(len(history.exchanges) for history in histories), tries_of(histories))


def tries_of(histories: Sequence[History]) -> Counter[str]:
    """Returns how often each status was received, including attempts that were retried."""
    return Counter(
        str(attempt.status) if isinstance(attempt, ServiceAnswer) else "no answer"
        for history in histories
        for exchange in history.exchanges
        for attempt in exchange.tries
    )


async def _transfers(database_url: str) -> RunCheck:
    """Check I7; a failure must not hide the other checks' results."""
    faults = []
    try:
        await assert_no_transfer_is_unfinished(database_url)
    except AssertionError as error:
        faults.append(str(error))
    return check_of("no transfer is unfinished", "I7", faults)


async def _trail(database_url: str, histories: Sequence[History]) -> RunCheck:
    """Check I10 and I12: each answer, replays included, has an audit trail row, and `not_executed` was not decided."""
    tries: defaultdict[tuple[str, str], list[ServiceAnswer | NoAnswer]] = defaultdict(list)
    for history in histories:
        for exchange in history.exchanges:
            if exchange.request.operation.key not in history.bulk_keys:
                tries[exchange.request.operation.wallet_id, exchange.request.operation.key] += exchange.tries
    rows = {(row[0], row[1]): (row[2], row[3]) for row in await fetch_rows(database_url, EXAMPLE_REPORT)}
    faults = []
    for key, attempts in tries.items():
        answered = sum(isinstance(attempt, ServiceAnswer) and attempt.is_definite for attempt in attempts)
        left_open = sum(map(_leaves_open, attempts))
        count, decided = rows.get(key, (0, 0))
        if not (answered <= decided <= answered + left_open and count <= len(attempts)):
            faults.append(
                f"{key[1]} was tried {len(attempts)} times, answered {answered} times, left open {left_open} times; "
                f"it has {count} audit trail rows, {decided} of them of a decision"
            )
    return check_of("answers are audited", count_of(len(tries), "key"), faults)


def _leaves_open(attempt: ServiceAnswer | NoAnswer) -> bool:
    """Returns whether the client can't know if the attempt was decided; most 503s state that it was not."""
    if isinstance(attempt, NoAnswer):
        return True
    return not attempt.is_definite and fields_of(attempt).get("code") == "outcome_unknown"


async def _verify(database_url: str, heads: Path | None) -> RunCheck:
    # Each event must have its effect by now, however young it is.
    proof = await proof_of(database_url, heads, effect_within=timedelta())
    faults = [
        f"{finding.check.invariant} {finding.check.title}: {finding.first.table}: {finding.first.row}: "
        f"expected {finding.first.expected}, found {finding.first.found}"
        for finding in proof.findings
        if finding.first is not None
    ]
    return check_of("wallet verify", count_of(len(proof.findings), "check"), faults)


async def _monitor(database_url: str) -> RunCheck:
    """The integrity monitor ran during the experiment: a fault that it has on record is a false alarm."""
    state = decode_state(str(await fetch_value(database_url, "select state::text from auditor")))
    faults = [f"{name}: {fault.table}: {fault.row}: found {fault.found}" for name, fault in state.faults.items()]
    seen = (
        "has not checked yet"
        if state.incremental is None
        else f"checked up to position {state.incremental.head.position:,}"
    )
    return check_of("the monitor saw no fault", seen, faults)


def _size(process: WalletProcess) -> str | None:
    """Check I12: returns a fault if the process uses too much memory or too many descriptors."""
    seen = psutil.Process(process.pid)
    with seen.oneshot():
        memory, descriptors = seen.memory_info().rss, seen.num_fds()
    if memory > MEMORY_BYTES_MAX or descriptors > DESCRIPTORS_MAX:
        return f"{process.name} has {memory / 1e6:,.0f} MB and {descriptors} descriptors open"
    return None
