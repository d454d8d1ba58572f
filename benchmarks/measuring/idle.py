"""Measures the CPU time of the three processes without load."""

import time
from contextlib import suppress
from typing import Final

import psutil

from benchmarks.books import expect_right_books
from benchmarks.figures import figure
from benchmarks.ground import Ground
from benchmarks.measuring.turns import Tell
from benchmarks.scenarios import Scenario
from benchmarks.verdicts import Measured
from tests.support.sessions import family_of

CALM_SECONDS: Final = 5
"""The time after the start until every loop has reached its longest pause."""


def measure(ground: Ground, scenario: Scenario, measured: Measured, tell: Tell) -> None:
    """Measures the CPU time of api, relay and worker over a period, in percent of one core."""
    del scenario
    with ground.database(ground.seeded) as url:
        with ground.vhost() as rabbitmq_url, ground.service(url, rabbitmq_url) as service:
            processes = {"api": service.start_api(), "relay": service.start("relay"), "worker": service.start("worker")}
            pids = {name: process.pid for name, process in processes.items()} | {"postgres": ground.postgres.pid}
            time.sleep(CALM_SECONDS)
            before, began = {name: _cpu_seconds(pid) for name, pid in pids.items()}, time.monotonic()
            tell(f"measuring for {ground.effort.idle_seconds} s")
            time.sleep(ground.effort.idle_seconds)
            seconds = time.monotonic() - began
            percent = {name: (_cpu_seconds(pid) - before[name]) / seconds * 100 for name, pid in pids.items()}
        measured.raw["verify"] = expect_right_books(url, directory=ground.directory)
    measured.raw["percent_of_a_core"] = percent
    measured.figures["CPU"] = figure(sum(percent[name] for name in processes))


def _cpu_seconds(pid: int) -> float:
    total = 0.0
    for member in family_of(pid):
        with suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            total += times.user + times.system
    return total
