"""The worker on both transports: every event takes effect once, whatever comes in between."""

import asyncio
from collections.abc import Iterator
from random import Random

import pytest
from structlog.testing import capture_logs

from tests.support.database import connected, execute, fetch_rows, fetch_value
from tests.support.event_log import Log, Row
from tests.support.postgres import PostgresServer
from tests.support.worker import Wire, has_logged, is_drained, projections_match, publish, queue_counts, until
from wallet.postgres.migrations import migrate
from wallet.runtime.failpoints import configure_failpoints


@pytest.fixture(params=["rabbitmq", "journal"])
def wire(request: pytest.FixtureRequest, database_url: str) -> Wire:
    """Each of the two transports in turn."""
    has_broker = request.param == "rabbitmq"
    return Wire(database_url, request.getfixturevalue("rabbitmq_url") if has_broker else None)


@pytest.fixture(autouse=True)
def no_failpoints() -> Iterator[None]:
    """Switches off what a test switched on."""
    yield
    configure_failpoints("")


async def write_random_log(log: Log, random: Random, *, moves: int = 300, wallets: int = 8) -> list[Row]:
    """Wallets that deposit, withdraw and transfer, a few times too fast or too much, in batches of various sizes."""
    names = [f"wallet-{number}" for number in range(wallets)]
    for name in names:
        log.deposit(name, 10_000_000)
    seconds = 0
    for _ in range(moves):
        seconds += random.choice((0, 1, 10, 40))
        match random.randrange(3):
            case 0:
                log.deposit(random.choice(names), random.randint(1, 500), at=seconds)
            case 1:
                log.withdraw(random.choice(names), random.choice((1, 99, 9_999, 10_000, 12_345)), at=seconds)
            case _:
                sender, receiver = random.sample([*names, "newcomer"], 2)
                sender = sender if sender != "newcomer" else next(name for name in names if name != receiver)
                log.transfer(sender, receiver, random.randint(1, 500), at=seconds)
        if random.random() < 0.1:
            await log.commit()
    for _ in range(3):
        log.withdraw(names[0], at=seconds)
    await log.commit()
    return log.rows


async def test_every_event_counts_once_and_the_rules_find_their_hits(wire: Wire, seed: int) -> None:
    async with Log.open(wire.database_url) as log, wire.worker():
        rows = await write_random_log(log, Random(seed))
        await wire.deliver(rows)
        await wire.matches(rows)
    statuses = await fetch_rows(wire.database_url, "select status, count(*) from processed_events group by status")
    assert [tuple(row) for row in statuses] == [("success", len(rows))]
    assert await fetch_rows(wire.database_url, "select id from dead_letters") == []
    assert any(
        "withdrawals within" in alert
        for (alert,) in await fetch_rows(wire.database_url, "select reason from fraud_alerts")
    )


async def test_events_of_before_the_start_are_handled_too(wire: Wire) -> None:
    async with Log.open(wire.database_url) as log:
        log.deposit("early", 5)
        rows = await log.commit()
        if wire.rabbitmq_url is None:
            async with wire.worker():
                await wire.matches(rows)
            return
        async with wire.worker():
            await until(has_queue, wire)
        await wire.deliver(rows)
        async with wire.worker():
            await wire.matches(rows)


async def has_queue(wire: Wire) -> bool:
    assert wire.rabbitmq_url is not None
    try:
        await queue_counts(wire.rabbitmq_url)
    except Exception as error:
        raise AssertionError("no queue yet") from error
    return True


async def test_a_worker_that_crashes_before_its_commit_has_done_nothing_and_the_next_one_does_it(wire: Wire) -> None:
    async with Log.open(wire.database_url) as log:
        log.deposit("alice", 100)
        log.withdraw("alice", 20_000 // 1000)
        rows = await log.commit()
        configure_failpoints("worker.before_commit=delay:60000@1")
        async with wire.worker() as crashing:
            await wire.deliver(rows)
            await until(waits_in_its_transaction, wire.database_url)
            crashing.cancel()
        configure_failpoints("")
        assert await fetch_rows(wire.database_url, "select wallet_id from wallet_stats") == []
        async with wire.worker():
            await wire.matches(rows)


async def waits_in_its_transaction(database_url: str) -> bool:
    """Longer than between two statements: so at the failpoint."""
    query = (
        "select pid from pg_stat_activity where application_name = 'wallet worker' and datname = current_database()"
        " and state = 'idle in transaction' and clock_timestamp() - state_change > interval '300 ms'"
    )
    return bool(await fetch_rows(database_url, query))


async def test_events_that_come_twice_after_a_crash_before_the_ack_count_once(
    database_url: str, rabbitmq_url: str
) -> None:
    wire = Wire(database_url, rabbitmq_url)
    async with Log.open(database_url) as log:
        for number in range(50):
            log.deposit(f"wallet-{number % 5}", 10)
        rows = await log.commit()
        configure_failpoints("worker.before_ack=delay:60000@1")
        async with wire.worker() as crashing:
            await wire.deliver(rows)
            await until(fetch_rows, database_url, "select from processed_events")
            crashing.cancel()
        configure_failpoints("")
        async with wire.worker():
            await wire.matches(rows)
            await until(is_drained, rabbitmq_url)


async def test_a_bug_before_the_ack_brings_the_messages_again_and_they_count_once(
    database_url: str, rabbitmq_url: str
) -> None:
    wire = Wire(database_url, rabbitmq_url)
    configure_failpoints("worker.before_ack=raise@1")
    with capture_logs() as lines:
        async with Log.open(database_url) as log, wire.worker():
            log.deposit("alice", 10)
            rows = await log.commit()
            await wire.deliver(rows)
            await until(has_logged, lines, "group_handled")
    assert await is_drained(rabbitmq_url)
    assert await projections_match(database_url, rows)


async def test_messages_that_come_twenty_times_in_any_order_count_once(
    database_url: str, rabbitmq_url: str, seed: int
) -> None:
    random = Random(seed)
    wire = Wire(database_url, rabbitmq_url)
    async with Log.open(database_url) as log, wire.worker(), wire.worker():
        rows = await write_random_log(log, random, moves=60)
        arriving = rows * 20
        random.shuffle(arriving)
        await wire.deliver(arriving)
        await wire.matches(rows)
        await until(is_drained, rabbitmq_url)
        assert await projections_match(database_url, rows)


async def test_a_journal_read_again_from_its_start_counts_nothing_twice(database_url: str, seed: int) -> None:
    wire = Wire(database_url, None)
    async with Log.open(database_url) as log:
        rows = await write_random_log(log, Random(seed), moves=100)
        async with wire.worker():
            await wire.matches(rows)
        await execute(database_url, "update worker_checkpoint set position = 0")
        async with wire.worker():
            await until(is_at_the_end, database_url)
        assert await projections_match(database_url, rows)


async def is_at_the_end(database_url: str) -> bool:
    query = "select c.position = (select max(j.position) from journal j) from worker_checkpoint c"
    return bool(await fetch_value(database_url, query))


async def test_several_workers_in_the_same_wallets_lose_and_double_nothing(wire: Wire, seed: int) -> None:
    async with Log.open(wire.database_url) as log, wire.worker(), wire.worker(), wire.worker():
        rows = await write_random_log(log, Random(seed), moves=1_500, wallets=3)
        arriving = list(rows)
        Random(seed).shuffle(arriving)
        await wire.deliver(arriving)
        await wire.matches(rows)
    assert await fetch_rows(wire.database_url, "select id from dead_letters") == []


async def test_the_hits_are_the_same_live_late_and_twice(database_url: str, rabbitmq_url: str) -> None:
    async with Log.open(database_url) as log, Wire(database_url, rabbitmq_url).worker():
        log.deposit("alice", 100_000)
        for at in (1, 20, 40, 59, 200):
            log.withdraw("alice", 10_000 if at == 59 else 1, at=at)
        rows = await log.commit()
        late_first = sorted(rows, key=lambda row: -row.recorded.version)
        for row in [*late_first, *rows]:
            await publish(rabbitmq_url, [row])
        await until(is_drained, rabbitmq_url)
        assert await projections_match(database_url, rows)
    stats = await fetch_rows(database_url, "select suspicious_reason from wallet_stats")
    assert [row["suspicious_reason"] for row in stats] == ["3 or more withdrawals within 60 seconds"]


async def test_a_connection_that_is_killed_again_and_again_costs_nothing(wire: Wire, seed: int) -> None:
    async with Log.open(wire.database_url) as log, wire.worker():
        rows: list[Row] = []
        for _ in range(5):
            rows = await write_random_log(log, Random(seed), moves=50)
            await wire.deliver(rows)
            await execute(
                wire.database_url,
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = 'wallet worker' and datname = current_database()",
            )
        await wire.matches(rows)
    assert await fetch_rows(wire.database_url, "select id from dead_letters") == []


@pytest.mark.parametrize("has_broker", [True, False], ids=["rabbitmq", "journal"])
async def test_an_outage_of_the_database_parks_nothing(
    request: pytest.FixtureRequest, own_postgres_server: PostgresServer, *, has_broker: bool
) -> None:
    rabbitmq_url = request.getfixturevalue("rabbitmq_url") if has_broker else None
    wire = Wire(own_postgres_server.create_database(), rabbitmq_url)
    async with Log.open(wire.database_url) as log:
        log.deposit("alice", 100)
        first = await log.commit()
        for number in range(500):
            log.deposit(f"wallet-{number % 7}", 1)
        await log.commit()
    async with wire.worker():
        await wire.deliver(first)
        await until(fetch_rows, wire.database_url, "select from wallet_stats")
        await asyncio.to_thread(own_postgres_server.stop)
        await wire.deliver(log.rows[len(first) :])
        await asyncio.to_thread(own_postgres_server.start)
        await wire.matches(log.rows)
    assert await fetch_rows(wire.database_url, "select id from dead_letters") == []
    if rabbitmq_url is not None:
        assert await is_drained(rabbitmq_url)


async def test_a_worker_waits_for_its_database_to_be_migrated(empty_database_url: str, rabbitmq_url: str) -> None:
    wire = Wire(empty_database_url, rabbitmq_url)
    with capture_logs() as lines:
        async with wire.worker():
            await until(has_logged, lines, "worker_paused")
            await migrate(empty_database_url)
            async with Log.open(empty_database_url) as log:
                log.deposit("alice", 1)
                await wire.deliver(await log.commit())
            await wire.matches(log.rows)
    reasons = {line["reason"].split(":")[0] for line in lines if line["event"] == "worker_paused"}
    assert "NotMigrated" in reasons
    assert await is_drained(rabbitmq_url)


@pytest.mark.parametrize(
    ("hinder", "stop_hindering"),
    [
        ("begin; lock table wallet_stats in exclusive mode", "rollback"),
        ("alter table wallet_stats rename to hidden", "alter table hidden rename to wallet_stats"),
    ],
    ids=["the totals locked for longer than it tries", "a table missing"],
)
async def test_what_is_not_the_messages_fault_is_waited_for_and_leaves_no_dead_letter(
    wire: Wire, hinder: str, stop_hindering: str
) -> None:
    async with Log.open(wire.database_url) as log, wire.worker():
        log.deposit("alice", 1)
        first = await log.commit()
        await wire.deliver(first)
        await wire.matches(first)
        async with connected(wire.database_url) as hindrance:
            await hindrance.execute(hinder)
            with capture_logs() as lines:
                log.deposit("alice", 2)
                await wire.deliver(await log.commit())
                await until(has_logged, lines, "worker_paused")
            await hindrance.execute(stop_hindering)
        await wire.matches(log.rows)
    assert await fetch_rows(wire.database_url, "select id from dead_letters") == []
    if wire.rabbitmq_url is not None:
        assert await is_drained(wire.rabbitmq_url)


async def test_asked_to_stop_it_leaves_nothing_half_done(database_url: str, rabbitmq_url: str) -> None:
    wire = Wire(database_url, rabbitmq_url)
    async with Log.open(database_url) as log:
        for number in range(1_000):
            log.deposit(f"wallet-{number % 20}", 1)
        rows = await log.commit()
        async with wire.worker():
            await wire.deliver(rows)
            await until(fetch_rows, database_url, "select from processed_events")
        done = await fetch_value(database_url, "select count(*) from processed_events")
        await until(holds, rabbitmq_url, len(rows) - done)
        async with wire.worker():
            await wire.matches(rows)


async def holds(rabbitmq_url: str, count: int) -> bool:
    """What was handled before the stop is off the queue; only the rest comes again."""
    assert await queue_counts(rabbitmq_url) == (count, 0)
    return True
