"""The lines that `wallet up` prints for requests, read from the api's log."""

import json
from pathlib import Path

from wallet.cli.processes.request_lines import LINES_A_SECOND_MAX, RateLimit, RequestLine, Tail, line_of

WIDTH = 80


def line(path: str = "/wallet/alice", **others: object) -> bytes:
    request = {"event": "request", "method": "GET", "path": path, "status": 200, "ms": 1.5} | others
    return json.dumps(request, separators=(",", ":")).encode()


class Clock:
    """A clock that a test sets."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def shown(limit: RateLimit, *lines: bytes) -> list[str]:
    return [text.plain for text in limit.choose(list(lines), WIDTH)]


def test_a_line_names_method_path_status_and_duration() -> None:
    text = line_of(RequestLine("request", "POST", "/wallet/alice/deposit", 201, 4.25), WIDTH)
    assert text.plain.split() == ["POST", "/wallet/alice/deposit", "201", "4.2", "ms"]


def test_what_comes_from_outside_cannot_act_on_the_terminal() -> None:
    text = line_of(RequestLine("request", "\x1b[2J", "/\x1b]0;x\x07\n", 404, 1.0), WIDTH)
    assert all(char.isprintable() for char in text.plain)


def test_of_many_requests_in_a_second_the_rest_is_counted() -> None:
    clock = Clock()
    limit = RateLimit(clock)
    count = LINES_A_SECOND_MAX + 1_234
    assert len(shown(limit, *[line()] * count)) == LINES_A_SECOND_MAX
    assert shown(limit) == []
    clock.seconds += 1
    more, request = shown(limit, line())
    assert more == "… and 1,234 more"
    assert request.startswith("GET ")
    clock.seconds += 1
    assert shown(limit) == []


def test_what_is_no_request_is_not_shown() -> None:
    limit = RateLimit(Clock())
    assert shown(limit, b'{"event":"request"', line(event="api_ready"), b'{"event":"request"}', line(status="?")) == []


def test_only_what_is_appended_is_read_and_only_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    log.write_bytes(line("/before") + b"\n")
    tail = Tail(log)
    assert tail.read_requests() == []
    with log.open("ab") as file:
        file.write(line("/a") + b'\n{"event":"api_ready"}\n' + line("/b")[:20])
        file.flush()
        assert tail.read_requests() == [line("/a")]
        file.write(line("/b")[20:] + b"\n")
    assert tail.read_requests() == [line("/b")]
    tail.close()


def test_a_rotation_loses_no_line(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    log.touch()
    tail = Tail(log)
    with log.open("ab") as file:
        file.write(line("/old") + b"\n")
    log.rename(tmp_path / "api.log.1")
    log.write_bytes(line("/new") + b"\n")
    assert tail.read_requests() == [line("/old"), line("/new")]
    with log.open("ab") as file:
        file.write(line("/newer") + b"\n")
    assert tail.read_requests() == [line("/newer")]
    tail.close()


def test_a_log_that_is_not_there_yet_is_read_from_its_beginning(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "api.log")
    assert tail.read_requests() == []
    (tmp_path / "api.log").write_bytes(line() + b"\n")
    assert tail.read_requests() == [line()]
    tail.close()


def test_a_long_path_is_cut_so_that_status_and_duration_are_seen() -> None:
    text = line_of(RequestLine("request", "GET", "/wallet/" + "a" * 500, 404, 1.0), WIDTH).plain
    assert len(text) == WIDTH
    assert text.endswith("…  404  1.0 ms")
