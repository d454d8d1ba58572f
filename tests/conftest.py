"""What every test can ask for; each fixture starts what it needs, and only when a test asks for it."""

import os
import random
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.postgres import PostgresServer
from tests.support.processes import Processes
from tests.support.rabbitmq import RabbitMQServer, find_scripts
from tests.support.rabbitmq_docker import DockerRabbitMQServer
from tests.support.reaper import Reaper

SEED_VARIABLE = "WALLET_TEST_SEED"

hypothesis.settings.register_profile("wallet", derandomize=False, print_blob=True, deadline=None)
hypothesis.settings.load_profile("wallet")


def pytest_configure(config: pytest.Config) -> None:
    # SIGTERM ends Python at once; as a KeyboardInterrupt it lets every fixture clear up first. (Not by a SIGINT to
    # ourselves: a shell that starts us in the background has that ignored.)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def reaper() -> Iterator[Reaper]:
    """Clears up after a run that was killed."""
    with Reaper() as reaper:
        yield reaper


@pytest.fixture(scope="session")
def postgres_server(reaper: Reaper) -> Iterator[PostgresServer]:
    """The run's PostgreSQL. A test that stops it asks for `own_postgres_server` instead."""
    with PostgresServer(reaper) as server:
        yield server


@pytest.fixture
def own_postgres_server(reaper: Reaper) -> Iterator[PostgresServer]:
    """A PostgreSQL for this test alone, to stop, start and kill."""
    with PostgresServer(reaper) as server:
        yield server


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A fresh, migrated database."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database without a single table."""
    url = postgres_server.create_database(migrated=False)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def rabbitmq_node(reaper: Reaper) -> Iterator[RabbitMQServer]:
    """The run's RabbitMQ, started when the first test asks for it."""
    scripts = find_scripts()
    with RabbitMQServer(reaper, scripts) if scripts else DockerRabbitMQServer(reaper) as server:
        yield server


@pytest.fixture
def rabbitmq_server(rabbitmq_node: RabbitMQServer) -> RabbitMQServer:
    """The run's RabbitMQ, running; a test may stop, kill and start it, the next one finds it running."""
    if not rabbitmq_node.is_running:
        rabbitmq_node.start()
    return rabbitmq_node


@pytest.fixture
def rabbitmq_url(rabbitmq_server: RabbitMQServer) -> str:
    """A virtual host that no other test uses."""
    return rabbitmq_server.create_vhost()


@pytest.fixture
def tmp_path(reaper: Reaper) -> Iterator[Path]:
    """A directory of the test's own. Pytest's is closed to the user whom PostgreSQL runs as when we are root."""
    directory = Path(tempfile.mkdtemp(prefix="wallet-test-"))
    directory.chmod(0o711)
    reaper.watch_directory(directory)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def processes(tmp_path: Path, reaper: Reaper) -> Iterator[Processes]:
    """Starts the wallet's processes; shows what they said if the test fails, and ends them with it."""
    processes = Processes(tmp_path / "processes", reaper)
    yield processes
    processes.stop_all()


@pytest.fixture
def seed() -> int:
    """A random seed, shown if the test fails and given again by WALLET_TEST_SEED."""
    return int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(2**32))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        if "seed" in item.funcargs:
            report.sections.append(("seed", f"{SEED_VARIABLE}={item.funcargs['seed']} repeats it"))
        processes = item.funcargs.get("processes")
        if isinstance(processes, Processes):
            report.sections.append(("the wallet's processes", processes.report()))
    return report
