"""The admin listener of each process: probes and metrics on a separate port."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.ports import free_port
from tests.support.processes import Processes, WalletProcess
from tests.support.reaper import Reaper
from tests.support.waiting import eventually_blocking

KINDS = ["api", "relay", "worker"]


@pytest.fixture
def processes(tmp_path: Path, reaper: Reaper) -> Iterator[Processes]:
    running = Processes(tmp_path, reaper)
    yield running
    running.stop_all()


def ask(port: int, path: str, method: str = "GET") -> httpx.Response:
    return httpx.request(method, f"http://127.0.0.1:{port}{path}", trust_env=False)


def started(processes: Processes, kind: str, database_url: str, port: int, **settings: str) -> WalletProcess:
    process = processes.start(
        kind, "--quiet", settings={"DATABASE_URL": database_url, "ADMIN_PORT": str(port), **settings}
    )
    processes.wait_until(process, lambda: "admin_ready" in process.logs())
    return process


def test_an_unknown_query_parameter_is_refused_here_too(database_url: str, processes: Processes) -> None:
    port = free_port()
    started(processes, "api", database_url, port)
    assert {ask(port, f"{path}?zzz=1").status_code for path in ("/healthz", "/readyz", "/metrics")} == {400}


@pytest.mark.parametrize("kind", KINDS)
def test_each_process_answers_probes_and_scrapes(kind: str, database_url: str, processes: Processes) -> None:
    port = free_port()
    started(processes, kind, database_url, port)
    alive, ready, metrics = (ask(port, path) for path in ("/healthz", "/readyz", "/metrics"))
    assert (alive.status_code, alive.json()["status"]) == (200, "alive")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert "process_resident_memory_bytes" in metrics.text
    assert ("wallet_http_request_seconds" in metrics.text) is (kind == "api")
    head = ask(port, "/readyz", "HEAD")
    assert (head.status_code, head.content) == (200, b"")


def test_relay_and_worker_count_what_they_did(database_url: str, rabbitmq_url: str, processes: Processes) -> None:
    """One deposit into a new wallet is one batch of two events."""
    ports = {kind: free_port() for kind in KINDS}
    for kind, port in ports.items():
        started(processes, kind, database_url, port, RABBITMQ_URL=rabbitmq_url)
    api = processes.start_api(DATABASE_URL=database_url)
    body = {"amount": 1, "requestId": "one"}
    assert httpx.post(f"{api.url}/wallet/alice/deposit", json=body, trust_env=False).status_code == 201

    def are_counted() -> bool:
        relay, worker = (ask(ports[kind], "/metrics").text for kind in ("relay", "worker"))
        assert "wallet_relay_batches_sealed_total 1.0" in relay
        assert "wallet_relay_events_published_total 2.0" in relay
        assert 'wallet_worker_messages_total{result="effect"} 2.0' in worker
        assert 'wallet_worker_messages_total{result="dead_letter"} 0.0' in worker
        return True

    eventually_blocking(are_counted, within=30.0)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_database_the_process_is_alive_and_not_ready(kind: str, processes: Processes) -> None:
    port = free_port()
    started(processes, kind, "postgresql://nobody@127.0.0.1:1/none", port)
    assert ask(port, "/healthz").status_code == 200
    refused = ask(port, "/readyz")
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert ask(port, "/metrics").status_code == 200


def test_it_takes_no_other_route_and_no_other_method(database_url: str, processes: Processes) -> None:
    port = free_port()
    started(processes, "relay", database_url, port)
    assert ask(port, "/wallet/alice").json()["code"] == "route_not_found"
    refused = ask(port, "/healthz", "POST")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("kind", KINDS)
def test_a_port_in_use_ends_the_process_with_a_line_that_names_it(
    kind: str, database_url: str, processes: Processes
) -> None:
    port = free_port()
    started(processes, "api", database_url, port)
    other = processes.start(kind, "--quiet", settings={"DATABASE_URL": database_url, "ADMIN_PORT": str(port)})
    eventually_blocking(lambda: other.exit_code is not None)
    assert other.exit_code == 2
    assert str(port) in other.output()


def test_up_gives_each_process_a_port(database_url: str, processes: Processes) -> None:
    first = next(port for port in iter(free_port, None) if all(is_free(port + offset) for offset in range(3)))
    processes.start_up(DATABASE_URL=database_url, ADMIN_PORT=str(first))
    texts = [ask(first + offset, "/metrics").text for offset in range(3)]
    assert ["wallet_http_request_seconds" in text for text in texts] == [True, False, False]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
