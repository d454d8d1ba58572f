"""The servers of a run: one PostgreSQL and one RabbitMQ for all experiments, and others for those that break one."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fault.experiment import Broker, Experiment
from tests.fault.laboratory import Laboratory
from tests.support.postgres import PostgresServer
from tests.support.processes import Processes
from tests.support.rabbitmq import RabbitMQServer
from tests.support.reaper import Reaper


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers; each is started when the first experiment needs it."""

    reaper: Reaper
    postgres: Callable[[], PostgresServer]
    broker: Callable[[], RabbitMQServer]
    breakable_broker: Callable[[], RabbitMQServer]


@contextmanager
def laboratory_for(
    experiment: Experiment, seed: int, servers: Servers, directory: Path, *, seconds: float
) -> Iterator[Laboratory]:
    """Yields a system for one experiment, without processes; ends at the end whatever still runs."""
    draw = random.Random(f"{seed}/{experiment.number}")
    processes = Processes(directory / "processes", servers.reaper)
    with ExitStack() as stack:
        broker = _broker_for(experiment, servers, draw)
        if experiment.has_own_postgres:
            postgres = stack.enter_context(PostgresServer(servers.reaper))
            database_url = postgres.create_database()
        else:
            postgres = servers.postgres()
            database_url = postgres.create_database()
            stack.callback(postgres.drop_database, database_url)
        stack.callback(processes.stop_all)
        yield Laboratory(
            seed=seed,
            resources=stack,
            reaper=servers.reaper,
            processes=processes,
            postgres=postgres,
            database_url=database_url,
            broker=broker,
            rabbitmq_url=None if broker is None else broker.create_vhost(),
            seconds=seconds,
        )


def _broker_for(experiment: Experiment, servers: Servers, draw: random.Random) -> RabbitMQServer | None:
    match experiment.broker:
        case Broker.NONE:
            return None
        case Broker.EITHER:
            return _running(servers.broker()) if draw.randrange(2) else None
        case Broker.SHARED:
            return _running(servers.broker())
        case Broker.OWN:
            return _running(servers.breakable_broker())


def _running(broker: RabbitMQServer) -> RabbitMQServer:
    if not broker.is_running:
        broker.start()
    return broker
