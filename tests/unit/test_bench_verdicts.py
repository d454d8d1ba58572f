"""The benchmark's own arithmetic: figures, verdicts, the table and what wrk says."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.effort import FULL, QUICK
from benchmarks.estimates import about_seconds
from benchmarks.figures import figure, percentile
from benchmarks.main import MEASURES
from benchmarks.report import document_of, print_report, verdict
from benchmarks.scenarios import SCENARIOS, Bound, Scenario, chosen
from benchmarks.verdicts import InvalidRun, Measured, Row, judge
from benchmarks.wrk import pressed
from wallet.cli.main import app

WRK = {
    "requests": 800,
    "seconds": 4.0,
    "connect": 0,
    "read": 0,
    "write": 0,
    "timeout": 0,
    "status": 0,
    "refused": 0,
    "p50_ms": 5.0,
    "p99_ms": 50.0,
}


def scenario(name: str) -> Scenario:
    [found] = chosen([name])
    return found


def judged(name: str, measured: Measured) -> Row:
    return judge(scenario(name), measured, seconds=1.0)


def deposits(per_second: float, *, p99: float = 50.0, faults: tuple[str, ...] = ()) -> Measured:
    """What deposits-64 gave, against a yardstick of 10,000 a second."""
    figures = {"deposits": figure(per_second), "p99": figure(p99)}
    return Measured(figures, {"deposit": figure(9_000, 10_000, 11_000)}, faults=[*faults])


def test_the_median_does_not_move_with_one_disturbed_run() -> None:
    assert figure(100, 102, 3).median == 100
    assert figure(90, 100, 110).spread == pytest.approx(0.1)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(1, 201)]
    assert [percentile(values, percent) for percent in (50, 99, 100)] == [100, 198, 200]
    assert percentile([7.0], 99) == 7


def test_a_bound_is_met_on_its_side_only() -> None:
    assert [bound.holds(2.0, 2.0) for bound in (Bound.AT_LEAST, Bound.AT_MOST, Bound.BELOW)] == [True, True, False]
    assert [bound.holds(2.1, 2.0) for bound in (Bound.AT_LEAST, Bound.AT_MOST, Bound.BELOW)] == [True, False, False]


def test_a_ratio_is_taken_to_the_yardsticks_median() -> None:
    row = judged("deposits-64", deposits(4_000))
    assert row.is_met
    assert row.lines[0].ratio == pytest.approx(0.4)


@pytest.mark.parametrize(
    "measured",
    [deposits(3_999), deposits(4_000, p99=120), deposits(9_000, faults=("a refused request",)), Measured()],
    ids=["ratio", "p99", "fault", "nothing measured"],
)
def test_a_row_falls_short_by_one_criterion_or_one_fault(measured: Measured) -> None:
    row = judged("deposits-64", measured)
    assert not row.is_met
    assert verdict([row]) == "0 of 1 scenarios reach their goals; missed by: deposits-64"


def test_the_table_shows_every_scenario_and_its_faults() -> None:
    console = Console(file=io.StringIO(), record=True)
    print_report(console, [judged(each.name, Measured(faults=["it broke"])) for each in SCENARIOS])
    text = console.export_text()
    assert [each.name for each in SCENARIOS if each.name not in text] == []
    assert text.count("it broke") == len(SCENARIOS)


def test_the_document_holds_every_run() -> None:
    document = json.loads(document_of([judged("deposits-64", deposits(4_000))], QUICK, {"cores": 2}, {}))
    [row] = document["scenarios"]
    assert row["yardsticks"]["deposit"]["runs"] == [9_000, 10_000, 11_000]
    assert row["criteria"][0]["ratio"] == pytest.approx(0.4)
    assert document["is_met"]


def test_every_scenario_has_a_way_to_be_measured() -> None:
    by_pressure = {each.name for each in SCENARIOS if each.pressure is not None and each.yardstick is not None}
    assert by_pressure.isdisjoint(MEASURES)
    assert by_pressure | MEASURES.keys() == {each.name for each in SCENARIOS}


def test_a_bulk_request_counts_as_its_operations() -> None:
    assert pressed(WRK, per_request=500).per_second == 100_000


@pytest.mark.parametrize("error", ["connect", "read", "write", "timeout", "status", "refused"])
def test_one_failed_request_makes_a_run_worthless(error: str) -> None:
    with pytest.raises(InvalidRun, match=f"{error} 1"):
        pressed(WRK | {error: 1}, per_request=1)


def test_the_whole_run_is_short_enough() -> None:
    minutes = {effort.name: sum(about_seconds(each, effort) for each in SCENARIOS) / 60 for effort in (FULL, QUICK)}
    assert minutes["full"] < 25
    assert minutes["quick"] < 8


def test_an_unknown_scenario_is_answered_with_the_names_there_are() -> None:
    result = CliRunner().invoke(app, ["bench", "--only", "idle", "--only", "nothing"])
    assert result.exit_code == 2
    assert "unknown scenario: nothing; the scenarios are deposits-64," in result.output


def test_where_the_benchmark_is_not_installed_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("wallet.cli.commands.checkout.CHECKOUT", tmp_path)
    result = CliRunner().invoke(app, ["bench"])
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1
