"""The stress tool's report: figures, verdict, and what a terminal and a file are shown of the way there."""

import io
from dataclasses import replace
from decimal import Decimal

import pytest
from rich.console import Console

from wallet.cli.monkey_screen import RunBars, RunLines
from wallet.stress.exchanges import NoAnswer, ServiceAnswer, TriedRequest
from wallet.stress.findings import RunCheck, not_checked
from wallet.stress.operations import Key, Operation, OperationKind, PlannedRequest, WalletId
from wallet.stress.report import heading, percentile_seconds, report_lines, without_password
from wallet.stress.run import Findings, Options

OPTIONS = Options(
    url="http://10.0.0.1:3000",
    request_count=3,
    concurrency=2,
    wallet_count=2,
    seed=7,
    run_id="abc",
    patience_seconds=30,
)
DEPOSIT = Operation(OperationKind.DEPOSIT, WalletId("monkey-abc-1"), Key("monkey-abc-key-0"), Decimal(5))
DONE = ServiceAnswer(201, b"{}")


def sent(
    operation: Operation, at_seconds: float, took_seconds: float, *tries: ServiceAnswer | NoAnswer
) -> TriedRequest:
    return TriedRequest(PlannedRequest(0, operation), tries, at_seconds, at_seconds + took_seconds)


def findings(*checks: RunCheck) -> Findings:
    return Findings(
        exchanges=[
            sent(DEPOSIT, 0, 0.010, DONE),
            sent(DEPOSIT, 0.005, 0.020, ServiceAnswer(503, b""), NoAnswer("connection lost"), DONE),
            sent(DEPOSIT, 1, 0.030, ServiceAnswer(400, b"{}")),
        ],
        sending_seconds=0.5,
        catching_up_seconds=1.25,
        has_caught_up=True,
        checks=checks,
    )


def test_a_clean_report_has_figures_promises_verdict_and_the_line_to_repeat_it() -> None:
    assert list(report_lines(OPTIONS, findings(RunCheck("money is conserved", "1 = 1")))) == [
        "",
        "  requests   3 in 0.50 s: 6 requests/s",
        "  latency    p50 20 ms   p90 30 ms   p99 30 ms   max 30 ms",
        "  answers    201: 2   400: 1   503: 1   none (connection lost): 1",
        "  repeats    2 with an earlier key, 1 of them while the first was under way",
        "  worker     caught up in 1.2 s",
        "",
        "  ✓ money is conserved          1 = 1",
        "",
        "clean: every promise was kept",
        "repeat it: ./wallet monkey --url http://10.0.0.1:3000 --requests 3 --concurrency 2 --wallets 2 --seed 7",
    ]


def test_a_broken_promise_shows_its_first_faults() -> None:
    broken = RunCheck("money is conserved", "1 ≠ 2", tuple(f"fault {number}" for number in range(5)))
    lines = list(report_lines(OPTIONS, findings(broken, not_checked("balances never jump"))))
    assert lines[7:15] == [
        "  ✗ money is conserved          5 faults",
        "      fault 0",
        "      fault 1",
        "      fault 2",
        "      and 2 more",
        "  – balances never jump         not checked: not every wallet can be read",
        "",
        "NOT clean: 1 of 2 promises broken",
    ]


def test_a_run_that_ended_early_says_so() -> None:
    lines = list(report_lines(replace(OPTIONS, request_count=1000), replace(findings(), has_caught_up=False)))
    assert lines[0] == "Ended early: 3 of 1,000 requests were sent."
    assert "  worker     has not caught up after 1.2 s" in lines


def test_a_run_without_a_request_has_a_report() -> None:
    lines = list(report_lines(OPTIONS, replace(findings(), exchanges=[], sending_seconds=0)))
    assert "  requests   0 in 0.00 s: 0 requests/s" in lines


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (90, 90), (99, 99), (100, 100), (0, 1)])
def test_percentiles_go_by_nearest_rank(percent: int, expected: int) -> None:
    assert percentile_seconds([float(number) for number in range(1, 101)], percent) == expected


def test_a_password_in_the_address_is_never_shown() -> None:
    assert without_password("http://me:secret@wallet.example:3000/x") == "http://wallet.example:3000/x"
    options = replace(OPTIONS, url="http://me:secret@wallet.example")
    assert "secret" not in heading(options) + "".join(report_lines(options, findings()))


def test_a_terminal_shows_a_bar() -> None:
    screen = io.StringIO()
    with RunBars(Console(file=screen, force_terminal=True, width=120), OPTIONS) as bars:
        bars.reached()
        bars.sent(2)
        bars.agreed(1)
    assert "━" in screen.getvalue()
    assert "2/3" in screen.getvalue()
    assert "worker's totals" in screen.getvalue()


def test_a_file_gets_plain_lines() -> None:
    screen = io.StringIO()
    with RunLines(Console(file=screen, width=200), OPTIONS) as lines:
        lines.reached()
        lines.sent(2)
        lines.sent(3)
        lines.agreed(2)
    assert screen.getvalue().splitlines() == [
        "monkey → http://10.0.0.1:3000: 3 requests, 2 at once, 2 wallets, run abc, seed 7",
        "sent 3 of 3",
        "the worker's totals are right for 2 of 2",
    ]
