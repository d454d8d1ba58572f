"""The fixtures of the tests: private, fresh, and nothing is left behind however a run ends."""

import signal
import subprocess
import sys
from pathlib import Path

import pika
import pytest

from tests.support.database import execute, fetch_value
from tests.support.postgres import PostgresServer
from tests.support.rabbitmq import RabbitMQServer
from tests.support.sessions import family_of, wait_until_ended
from tests.support.waiting import eventually, eventually_blocking

ROOT = Path(__file__).parents[2]

# A run that has a separate database, broker and process, and then waits for its end.
BLOCKED_RUN = """
import signal
from pathlib import Path

def test_blocks(postgres_server, database_url, rabbitmq_node, rabbitmq_url, tmp_path, processes):
    processes.start("worker", settings={"DATABASE_URL": database_url})
    here = Path(__file__).parent
    (here / "writing").write_text(f"{postgres_server.directory}\\n{rabbitmq_node.directory}\\n{tmp_path}")
    (here / "writing").rename(here / "directories")
    while True:
        signal.pause()
"""


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_process_and_no_file(tmp_path: Path, signal_number: signal.Signals) -> None:
    (tmp_path / "test_blocked.py").write_text(BLOCKED_RUN)
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "pytest", "-c", "pyproject.toml", "-p", "tests.conftest", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as run:
        marker = tmp_path / "directories"
        eventually_blocking(lambda: marker.exists() or run.poll() is not None, within=60)
        family = family_of(run.pid)
        names = " ".join(process.name() for process in family)
        assert all(name in names for name in ("postgres", "beam", "epmd", "python")), run.communicate()[0]
        run.send_signal(signal_number)
        run.communicate()
    wait_until_ended(family)
    directories = [Path(line) for line in marker.read_text().splitlines()]
    assert len(directories) == 3
    eventually_blocking(lambda: not any(directory.exists() for directory in directories))


async def test_each_database_is_fresh_and_migrated(postgres_server: PostgresServer) -> None:
    urls = [postgres_server.create_database() for _ in range(2)]
    for url in urls:
        assert await fetch_value(url, "select count(*) from wallets") == 0
        await execute(url, "create table mark ()")
        postgres_server.drop_database(url)


def test_databases_are_there_again_after_the_server_was_killed(own_postgres_server: PostgresServer) -> None:
    url = own_postgres_server.create_database(migrated=False)
    own_postgres_server.kill()
    own_postgres_server.start()
    own_postgres_server.drop_database(url)
    assert own_postgres_server.create_database(migrated=False) != url


def test_durable_queues_are_there_again_after_the_broker_was_killed(
    rabbitmq_server: RabbitMQServer, rabbitmq_url: str
) -> None:
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_url)) as connection:
        connection.channel().queue_declare("kept", durable=True, arguments={"x-queue-type": "quorum"})
    rabbitmq_server.kill()
    rabbitmq_server.start()
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_url)) as connection:
        assert connection.channel().queue_declare("kept", passive=True).method.queue == "kept"


def test_each_virtual_host_is_another(rabbitmq_server: RabbitMQServer) -> None:
    assert len({rabbitmq_server.create_vhost() for _ in range(30)}) == 30


def test_waiting_in_vain_shows_the_last_failed_assertion() -> None:
    def condition() -> bool:
        assert [1, 2] == [1], "one too many"
        return True

    with pytest.raises(AssertionError, match=r"not met within 0.05 s: .*condition: one too many"):
        eventually_blocking(condition, within=0.05)


async def test_waiting_gives_what_the_condition_gave() -> None:
    numbers = iter([0, 0, 7])

    async def condition() -> int:
        return next(numbers)

    assert await eventually(condition) == 7
