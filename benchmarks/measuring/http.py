"""Measures a load over HTTP: without relay and worker, because the yardstick has no pipeline, and then with them."""

from typing import Any, Final

from benchmarks.books import drain, expect_right_books, now
from benchmarks.figures import figure
from benchmarks.ground import Ground, checkpoint, query
from benchmarks.measuring.turns import Tell, between
from benchmarks.scenarios import SPREAD_OUT, Pressure, Scenario
from benchmarks.verdicts import Measured
from benchmarks.wrk import Pressed, press

WARM_UP_SECONDS: Final = 1
"""The warm-up with the pipeline. It is short because the pipeline must also process its events."""


def measure(ground: Ground, scenario: Scenario, measured: Measured, tell: Tell) -> None:
    """Measures a scenario that has a pressure and a yardstick."""
    assert scenario.pressure is not None
    assert scenario.yardstick is not None
    with between(ground, scenario.yardstick, measured, tell), ground.database(ground.seeded) as url:
        _measure_api(ground, scenario, url, measured, tell)
        measured.raw["verify"] = expect_right_books(url, directory=ground.directory)
    with ground.database(ground.seeded) as url:
        _measure_with_pipeline(ground, scenario.pressure, url, measured, tell)
        measured.raw["verify_with_pipeline"] = expect_right_books(url, directory=ground.directory)
    tell("the books are right")


def _measure_api(ground: Ground, scenario: Scenario, url: str, measured: Measured, tell: Tell) -> None:
    effort, pressure = ground.effort, scenario.pressure
    assert pressure is not None
    runs: list[Pressed] = []
    beside: list[Pressed] = []
    with ground.service(url) as service:
        api = service.start_api(*workers(pressure))
        checkpoint(url)
        press(api.url, pressure, effort.warm_up_seconds)
        for number in range(1, effort.runs + 1):
            if scenario.beside is not None:
                beside.append(press(api.url, scenario.beside, effort.run_seconds))
                tell(f"{SPREAD_OUT} {beside[-1].per_second:,.0f}/s")
            runs.append(press(api.url, pressure, effort.run_seconds))
            tell(f"run {number} of {effort.runs}: {runs[-1].per_second:,.0f}/s, p99 {runs[-1].p99_ms:,.0f} ms")
        _keep(measured, scenario, runs, beside)


def workers(pressure: Pressure) -> tuple[str, ...]:
    """Returns the arguments of `wallet api` for the number of processes."""
    return () if pressure.api_processes == 1 else ("--workers", str(pressure.api_processes))


def _keep(measured: Measured, scenario: Scenario, runs: list[Pressed], beside: list[Pressed]) -> None:
    measured.figures[scenario.criteria[0].figure] = figure(*(run.per_second for run in runs))
    measured.figures["p50"] = figure(*(run.p50_ms for run in runs))
    measured.figures["p99"] = figure(*(run.p99_ms for run in runs))
    measured.raw["runs"] = [run.raw for run in runs]
    if beside:
        measured.against[SPREAD_OUT] = figure(*(run.per_second for run in beside))
        measured.raw["beside"] = [run.raw for run in beside]


def _measure_with_pipeline(ground: Ground, pressure: Pressure, url: str, measured: Measured, tell: Tell) -> None:
    with ground.vhost() as rabbitmq_url, ground.service(url, rabbitmq_url) as service:
        api = service.start_api(*workers(pressure))
        service.start("relay")
        service.start("worker")
        checkpoint(url)
        press(api.url, pressure, WARM_UP_SECONDS)
        began = now(url)
        run = press(api.url, pressure, ground.effort.pipeline_seconds)
        ended = now(url)
        drained = drain(url, since=ended)
    [(event_count,)] = query(url, "select count(*) from events where occurred_at >= $1", began)
    events_per_second = event_count / (drained.quiet_at - began).total_seconds()
    measured.with_pipeline = figure(run.per_second)
    measured.drain_seconds = drained.seconds
    raw: dict[str, Any] = {"events": event_count, "events_per_second_to_the_end": events_per_second}
    measured.raw["with_pipeline"] = run.raw | raw
    tell(f"with relay and worker {run.per_second:,.0f}/s, quiet after {drained.seconds:,.1f} s")
