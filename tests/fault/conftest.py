"""Fixtures with the servers of the experiments."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.fault.servers import Servers
from tests.support.postgres import PostgresServer
from tests.support.rabbitmq import RabbitMQServer, find_scripts
from tests.support.reaper import Reaper


@pytest.fixture(scope="session")
def postgres_server(reaper: Reaper) -> Iterator[PostgresServer]:
    """Yields the PostgreSQL of the experiments, whose files are on a disk, as in production."""
    with PostgresServer(reaper) as server:
        yield server


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest, reaper: Reaper) -> Iterator[Servers]:
    """Yields the servers that all tests share, and a second broker for the experiments that kill it."""
    with ExitStack() as stack:
        breakable: list[RabbitMQServer] = []

        def breakable_broker() -> RabbitMQServer:
            if not breakable:
                scripts = find_scripts()
                assert scripts is not None, "a broker that can be killed needs an installed RabbitMQ"
                breakable.append(stack.enter_context(RabbitMQServer(reaper, scripts)))
            return breakable[0]

        yield Servers(
            reaper=reaper,
            postgres=lambda: request.getfixturevalue("postgres_server"),
            broker=lambda: request.getfixturevalue("rabbitmq_node"),
            breakable_broker=breakable_broker,
        )
