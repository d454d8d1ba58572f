"""How far two clocks are apart, seen from one side: what lies within the time that the answer took is no difference."""

from datetime import UTC, datetime

import pytest

from wallet.ledger.transaction import ClockDiffers, check_clock


@pytest.mark.parametrize(
    ("now", "asked_at_seconds", "answered_at_seconds", "message"),
    [
        (1_000, 1_000, 1_000, None),
        (1_060, 1_000, 1_000, None),
        (1_061, 1_000, 1_000, "61.0 s ahead of this process's clock"),
        (940, 1_000, 1_000, None),
        (939, 1_000, 1_000, "61.0 s behind this process's clock"),
        # A statement, or an event loop, that took ten minutes.
        (1_001, 1_000, 1_600, None),
        (1_599, 1_000, 1_600, None),
        (1_661, 1_000, 1_600, "61.0 s ahead of"),
        (939, 1_000, 1_600, "61.0 s behind"),
        (315_361_000, 1_000, 1_000, "315,360,000.0 s ahead of"),
    ],
)
def test_a_difference_is_what_lies_outside_of_the_time_the_answer_took(
    now: int, asked_at_seconds: float, answered_at_seconds: float, message: str | None
) -> None:
    said = None
    try:
        check_clock(
            datetime.fromtimestamp(now, UTC),
            asked_at_seconds=asked_at_seconds,
            answered_at_seconds=answered_at_seconds,
            difference_seconds_max=60.0,
        )
    except ClockDiffers as error:
        said = str(error)
    assert (said is None) == (message is None), said
    assert said is None or (
        message is not None and message in said and "CLOCK_DIFFERENCE_MAX_SECONDS allows 60 s" in said
    )
