"""The log writer: what can't be written is dropped and counted, and never holds up the process."""

import io
import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest
import structlog

from tests.support.waiting import eventually_blocking
from wallet.runtime.logs import logging_to
from wallet.runtime.settings import Settings


def test_an_event_that_cannot_be_encoded_ends_neither_the_writer_nor_the_stop(tmp_path: Path) -> None:
    with logging_to(Settings(log_dir=tmp_path), "api", on_terminal=False):
        structlog.get_logger().info("broken", text="\ud800")
    with logging_to(Settings(log_dir=tmp_path), "api", on_terminal=False):
        structlog.get_logger().info("whole", text="é")
    lines = [json.loads(line) for line in (tmp_path / "api.log").read_text(encoding="utf-8").splitlines()]
    assert [line["text"] for line in lines if line["event"] == "whole"] == ["é"]


def test_the_writer_goes_on_after_an_event_it_could_not_write(tmp_path: Path) -> None:
    with logging_to(Settings(log_dir=tmp_path), "api", on_terminal=False):
        for number in range(2_000):
            structlog.get_logger().info("event", text="\ud800" if number == 0 else "fine")
    text = (tmp_path / "api.log").read_text(encoding="utf-8")
    assert "log_events_dropped" in text
    assert '"text":"fine"' in text


@pytest.mark.parametrize("quiet", [False, True])
def test_a_full_disk_is_reported_once_and_without_a_traceback(
    *, quiet: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    terminal = ""

    def has_shown(text: str) -> bool:
        nonlocal terminal
        terminal += capfd.readouterr().err
        return text in terminal

    file = tmp_path / "api.log"
    file.symlink_to("/dev/full")
    with logging_to(Settings(log_dir=tmp_path), "api", on_terminal=not quiet):
        log = structlog.get_logger()
        log.info("lost", number=1)
        eventually_blocking(lambda: has_shown("log_file_failed"))
        for number in (2, 3):
            log.info("lost", number=number)
            if not quiet:
                eventually_blocking(lambda number=number: has_shown(f'"number":{number}'))  # type: ignore[misc]
    has_shown("")
    assert "No space left on device" in terminal
    assert "Traceback" not in terminal
    assert terminal.count("log_file_failed") == 1


def test_what_a_full_disk_lost_is_counted_when_there_is_room_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "api.log"
    file.symlink_to("/dev/full")
    with logging_to(Settings(log_dir=tmp_path), "api", on_terminal=True):
        log = structlog.get_logger()
        for number in range(3):
            log.info("lost", number=number)
            eventually_blocking(lambda number=number: f'"number":{number}' in capfd.readouterr().err)  # type: ignore[misc]
        file.unlink()
        log.info("kept")
    assert file.read_text(encoding="utf-8").startswith("\n"), "a line that was written in part would go on"
    kept, dropped = (json.loads(line) for line in file.read_text(encoding="utf-8").split())
    assert kept["event"] == "kept"
    assert (dropped["event"], dropped["count"]) == ("log_events_dropped", 3)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_log_files_are_for_the_owner_and_the_group_only(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wallet.runtime.logs.FILE_BYTES_MAX", 1_000)
    for name in ("api.log", "api.log.5", ".__api.lock"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o644)
    before = os.umask(umask)
    try:
        for service in ("api", "worker"):
            with logging_to(Settings(log_dir=tmp_path), service, on_terminal=False):
                for number in range(3):
                    structlog.get_logger().info("event", number=number, text="x" * 900)
                    eventually_blocking(partial(has_logged, tmp_path, service, f'"number":{number}'))
    finally:
        os.umask(before)
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()}
    rotated = {"api.log.1", "worker.log.1"}
    assert {"api.log", "api.log.5", ".__api.lock", "worker.log", ".__worker.lock"} | rotated <= set(modes)
    assert set(modes.values()) == {"0o640"}, modes


def has_logged(directory: Path, service: str, text: str) -> bool:
    return any(text in file.read_text() for file in directory.glob(f"{service}.log*"))


class ClosedTerminal(io.StringIO):
    """Counts what was tried on it."""

    tries = 0

    def write(self, text: str) -> int:
        self.tries += len(text) > 0
        raise ValueError("I/O operation on closed file.")


def test_the_writer_outlives_a_full_disk_without_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = ClosedTerminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    file = tmp_path / "api.log"
    file.symlink_to("/dev/full")
    with logging_to(Settings(log_dir=tmp_path), "api", on_terminal=True):
        structlog.get_logger().info("lost")
        eventually_blocking(lambda: terminal.tries == 2)
        file.unlink()
        structlog.get_logger().info("kept")
    assert [json.loads(line)["event"] for line in file.read_text(encoding="utf-8").split()] == [
        "kept",
        "log_events_dropped",
    ]
