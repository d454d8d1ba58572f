"""The output of `wallet chaos`: a line for each experiment, and everything about a failure. No process remains."""

import asyncio
import signal
from pathlib import Path

import psutil
import pytest

from tests.fault import chaos
from tests.fault.experiment import Experiment
from tests.fault.laboratory import Laboratory
from tests.support.processes import Processes, WalletProcess
from tests.support.sessions import family_of
from tests.support.waiting import eventually_blocking


def start(processes: Processes, tmp_path: Path, *arguments: str) -> WalletProcess:
    (tmp_path / "tmp").mkdir(mode=0o711)
    return processes.start("chaos", *arguments, settings={"TMPDIR": str(tmp_path / "tmp")})


async def test_each_run_is_a_line_with_its_seed_and_the_verdict_comes_last(
    processes: Processes, tmp_path: Path
) -> None:
    process = start(processes, tmp_path, "--minutes", "0", "--seed", "2", "--only", "12")
    assert await asyncio.to_thread(process.wait, 90) == 0, process.output()
    heading, *lines, verdict = process.output().splitlines()
    assert "seed 2" in heading
    assert lines[0].startswith("✓ 12  one key a thousand times")
    assert "seed 2 " in lines[0]
    assert verdict.startswith("clean: every promise was kept; 1 run of 1 experiment"), verdict
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_ended_in_the_middle_it_leaves_nothing_behind(processes: Processes, tmp_path: Path) -> None:
    process = start(processes, tmp_path, "--only", "12")
    eventually_blocking(lambda: len(family_of(process.pid)) > 6, within=60)
    family = family_of(process.pid)
    assert await asyncio.to_thread(process.stop) == chaos.EXIT_INTERRUPTED, process.output()
    assert "interrupted; all processes and servers that the run started have ended" in process.output()
    assert [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_an_unknown_number_is_answered_with_the_list(processes: Processes, tmp_path: Path) -> None:
    process = start(processes, tmp_path, "--only", "99")
    assert await asyncio.to_thread(process.wait) == 2
    assert "no experiment has the number 99" in process.output()
    assert "17  several of these at once" in process.output()


def test_a_broken_promise_is_told_with_what_repeats_it_and_its_logs_are_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async def lose_a_deposit(lab: Laboratory) -> None:
        await lab.start_api()
        raise AssertionError("a deposit is missing")

    monkeypatch.setattr(chaos, "EXPERIMENTS", (Experiment(99, "planted", lose_a_deposit),))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert chaos.run([99], minutes=0, seed=7, logs=tmp_path / "kept", as_json=False) == chaos.EXIT_BROKEN
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr().out
    assert "✗ 99  planted" in said
    assert "AssertionError: a deposit is missing" in said
    assert "repeat it: ./wallet chaos --minutes 0 --seed 7 --only 99" in said
    assert said.splitlines()[-1].startswith("broken: 99 (seed 7)")
    [kept] = (tmp_path / "kept").iterdir()
    assert "1-api" in kept.read_text()
