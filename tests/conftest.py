"""The fixtures that all tests share. A server starts when the first test uses it."""

import os
import random
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from tests.support.postgres import PostgresServer
from tests.support.processes import Processes
from tests.support.rabbitmq import RabbitMQServer, find_scripts
from tests.support.rabbitmq_docker import DockerRabbitMQServer
from tests.support.reaper import Reaper

SEED_VARIABLE = "WALLET_TEST_SEED"

hypothesis.settings.register_profile("wallet", derandomize=False, print_blob=True, deadline=None)
hypothesis.settings.load_profile("wallet")


def pytest_configure(config: pytest.Config) -> None:
    # By default SIGTERM ends Python at once; as a KeyboardInterrupt it lets every fixture clean up first. (A SIGINT
    # to this process would not do: a shell makes its background processes ignore it.)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell that starts this process in the background has SIGINT ignored, and so would the processes under test.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The default renders tracebacks with rich, which blocks the event loop for a second on a busy machine. The product
    # does not use it.
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], renderer])


@pytest.fixture(scope="session")
def reaper() -> Iterator[Reaper]:
    """Yields the reaper, which cleans up after a run that was killed."""
    with Reaper() as reaper:
        yield reaper


@pytest.fixture(scope="session")
def postgres_server(reaper: Reaper) -> Iterator[PostgresServer]:
    """Yields the PostgreSQL that all tests share. A test that stops its server uses `own_postgres_server` instead."""
    with PostgresServer(reaper, in_memory=True) as server:
        yield server


@pytest.fixture
def own_postgres_server(reaper: Reaper) -> Iterator[PostgresServer]:
    """Yields a PostgreSQL for one test, which may stop, start and kill it."""
    with PostgresServer(reaper, in_memory=True) as server:
        yield server


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Yields the address of a new, migrated database."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Yields the address of a new database without tables."""
    url = postgres_server.create_database(migrated=False)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def rabbitmq_node(reaper: Reaper) -> Iterator[RabbitMQServer]:
    """Yields the RabbitMQ that all tests share; it may be stopped."""
    scripts = find_scripts()
    with RabbitMQServer(reaper, scripts) if scripts else DockerRabbitMQServer(reaper) as server:
        yield server


@pytest.fixture
def rabbitmq_server(rabbitmq_node: RabbitMQServer) -> RabbitMQServer:
    """Returns the shared RabbitMQ, started. A test may stop, kill and start it."""
    if not rabbitmq_node.is_running:
        rabbitmq_node.start()
    return rabbitmq_node


@pytest.fixture
def rabbitmq_url(rabbitmq_server: RabbitMQServer) -> str:
    """Returns the address of a virtual host that no other test uses."""
    return rabbitmq_server.create_vhost()


@pytest.fixture
def tmp_path(reaper: Reaper) -> Iterator[Path]:
    """Yields a directory for one test, and removes it at the end.

    It replaces pytest's: if the tests run as root, PostgreSQL's user has no access to that.
    """
    directory = Path(tempfile.mkdtemp(prefix="wallet-test-"))
    directory.chmod(0o711)
    reaper.watch_directory(directory)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def processes(tmp_path: Path, reaper: Reaper) -> Iterator[Processes]:
    """Yields an object that starts the wallet's processes, and ends them; a failed test's report has their output."""
    processes = Processes(tmp_path / "processes", reaper)
    yield processes
    processes.stop_all()


@pytest.fixture
def seed() -> int:
    """Returns a random seed, or WALLET_TEST_SEED if it is set. The report of a failed test has the seed."""
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
