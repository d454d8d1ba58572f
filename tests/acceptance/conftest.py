"""The whole system as processes, on either transport."""

from dataclasses import dataclass, field

import pytest

from tests.support.processes import Processes, WalletProcess


@dataclass
class System:
    """Settings that its processes share, and a way to start them."""

    processes: Processes
    database_url: str
    rabbitmq_url: str | None
    settings: dict[str, str] = field(default_factory=dict)

    def start_api(self, **settings: str) -> WalletProcess:
        """One more api, ready."""
        return self.processes.start_api(**self._settings(settings))

    def start_relay(self, **settings: str) -> WalletProcess:
        """One more relay."""
        return self.processes.start_relay(**self._settings(settings))

    def start_worker(self, **settings: str) -> WalletProcess:
        """One more worker."""
        return self.processes.start_worker(**self._settings(settings))

    def _settings(self, settings: dict[str, str]) -> dict[str, str]:
        broker = {} if self.rabbitmq_url is None else {"RABBITMQ_URL": self.rabbitmq_url}
        return {"DATABASE_URL": self.database_url, **broker, **self.settings, **settings}


@pytest.fixture(params=["rabbitmq", "embedded"])
def system(request: pytest.FixtureRequest, processes: Processes, database_url: str) -> System:
    """A system on each transport in turn, nothing started yet."""
    rabbitmq_url = request.getfixturevalue("rabbitmq_url") if request.param == "rabbitmq" else None
    return System(processes, database_url, rabbitmq_url)


@pytest.fixture
def rabbitmq_system(processes: Processes, database_url: str, rabbitmq_url: str) -> System:
    """A system on RabbitMQ, nothing started yet."""
    return System(processes, database_url, rabbitmq_url)
