"""Metrics of several processes behind one port: each process reports the sums over all."""

from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter, values

from wallet.api.contract.examples import EXAMPLE_REPORT
from wallet.api.contract.schemas import IntegrityResponse
from wallet.api.edge.asgi import REQUEST_SECONDS
from wallet.api.integrity_metrics import IntegrityCollector
from wallet.ledger.ledger import QUEUE_DEPTH
from wallet.runtime.metrics import DIRECTORY_VARIABLE, Metrics, forget_process
from wallet.trail.buffer import LOST_ROWS


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the processes write; the library's choice of how to count is put back afterwards."""
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    return tmp_path


def api_metrics(queue_depth: float = 0.0, *, process_number: int | None = None) -> Metrics:
    metrics = Metrics("api", process_number=process_number)
    metrics.ask(QUEUE_DEPTH, lambda: queue_depth)
    return metrics


def lines_of(metrics: Metrics) -> list[str]:
    return metrics.render().decode().splitlines()


def count(metrics: Metrics, times: int) -> None:
    for _ in range(times):
        metrics.observe(REQUEST_SECONDS, 0.003, "POST", "/wallet/{id}/deposit", "201")


def counted(metrics: Metrics) -> float:
    (line,) = [line for line in lines_of(metrics) if "seconds_count" in line]
    return float(line.rsplit(" ", 1)[1])


def test_each_process_reports_the_sum_over_all(directory: Path) -> None:
    one = api_metrics(3.0, process_number=1)
    two = api_metrics(4.0, process_number=2)
    count(one, 2)
    count(two, 5)
    two.add(LOST_ROWS)
    lines_of(one)
    lines = lines_of(two)
    assert counted(one) == counted(two) == 7.0
    assert "wallet_ledger_queue_depth 7.0" in lines
    assert "wallet_api_processes 2.0" in lines
    assert "wallet_trail_rows_lost_total 1.0" in lines


def test_a_process_started_again_goes_on_counting_and_leaves_no_second_file(directory: Path) -> None:
    count(api_metrics(9.0, process_number=1), 2)
    survivor = api_metrics(process_number=2)
    count(survivor, 1)
    files = sorted(directory.iterdir())
    forget_process(directory, 1)
    assert counted(survivor) == 3.0
    assert "wallet_api_processes 1.0" in lines_of(survivor)
    assert "wallet_ledger_queue_depth 0.0" in lines_of(survivor)
    count(api_metrics(process_number=1), 4)
    assert counted(survivor) == 7.0
    assert "wallet_api_processes 2.0" in lines_of(survivor)
    assert sorted(directory.iterdir()) == files


def test_one_process_alone_keeps_no_files(tmp_path: Path) -> None:
    alone = api_metrics(2.0)
    count(alone, 1)
    assert counted(alone) == 1.0
    assert "wallet_ledger_queue_depth 2.0" in lines_of(alone)
    assert any(line.startswith("process_resident_memory_bytes") for line in lines_of(alone))
    assert list(tmp_path.iterdir()) == []


async def test_what_the_monitor_found_is_not_summed_over_processes(directory: Path) -> None:
    report = msgspec.convert(EXAMPLE_REPORT, IntegrityResponse)

    async def read() -> IntegrityResponse:
        return report

    processes = [api_metrics(process_number=number) for number in (1, 2, 3)]
    collectors = [IntegrityCollector(read) for _ in processes]
    for metrics, collector in zip(processes, collectors, strict=True):
        metrics.register(collector, collector.refresh)
        await collector.refresh()
        lines = lines_of(metrics)
        assert 'wallet_integrity_faults{check="balance",invariant="I2"} 1.0' in lines
        assert "wallet_integrity_check_age_seconds 2.125" in lines
        assert "wallet_integrity_status 2.0" in lines
    collectors[0].report = None
    assert not any(line.startswith("wallet_integrity_status") for line in lines_of(processes[0]))


def test_the_library_counts_with_the_class_that_is_set_and_names_its_files_by_our_number(directory: Path) -> None:
    """`values.ValueClass` is not part of the library's documented interface; a release that ignores it fails here."""
    api_metrics(process_number=7)
    value = values.ValueClass("counter", "n_total", "n_total", (), (), "help")
    value.inc(1)
    assert (directory / "counter_7.db").exists()
    own = Counter("own_total", "A metric that is created after the class was set.", registry=CollectorRegistry())
    assert type(own._value) is values.ValueClass  # the place where the library keeps the value
