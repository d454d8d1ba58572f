"""The log writer: what can't be written is dropped and counted, and never holds up the process."""

import json
from pathlib import Path

import structlog

from wallet.observability import logging_to
from wallet.settings import Settings


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
