"""Fixtures that run the whole system as processes, on each transport."""

from dataclasses import dataclass, field

import pytest

from tests.support.processes import Processes, WalletProcess


@dataclass
class System:
    """Starts processes that share a database, a broker and settings."""

    processes: Processes
    database_url: str
    rabbitmq_url: str | None
    settings: dict[str, str] = field(default_factory=dict)

    def start_api(self, **settings: str) -> WalletProcess:
        """Starts another api, and waits until it is ready."""
        return self.processes.start_api(**self._settings(settings))

    def start_relay(self, **settings: str) -> WalletProcess:
        """Starts another relay, and waits until it has started."""
        return self.processes.start_relay(**self._settings(settings))

    def start_worker(self, **settings: str) -> WalletProcess:
        """Starts another worker, and waits until it has started."""
        return self.processes.start_worker(**self._settings(settings))

    def _settings(self, settings: dict[str, str]) -> dict[str, str]:
        broker = {} if self.rabbitmq_url is None else {"RABBITMQ_URL": self.rabbitmq_url}
        return {"DATABASE_URL": self.database_url, **broker, **self.settings, **settings}


@pytest.fixture(params=["rabbitmq", "embedded"])
def system(request: pytest.FixtureRequest, processes: Processes, database_url: str) -> System:
    """Returns a system without running processes; the test runs once for each transport."""
    rabbitmq_url = request.getfixturevalue("rabbitmq_url") if request.param == "rabbitmq" else None
    return System(processes, database_url, rabbitmq_url)


@pytest.fixture
def rabbitmq_system(processes: Processes, database_url: str, rabbitmq_url: str) -> System:
    """Returns a system on RabbitMQ, without running processes."""
    return System(processes, database_url, rabbitmq_url)
