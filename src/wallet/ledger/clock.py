"""The check of PostgreSQL's clock: no batch is executed at a time that this process considers wrong.

Events keep their time for ever, and a wallet's next event is never earlier. One commit by a clock that is years ahead
would leave a wallet whose events all have nearly the same time from then on, which the fraud rules take for haste.

Replays are refused as well: each has an audit trail row, which would have the wrong time.
"""

from datetime import datetime


class ClockDiffers(Exception):
    """PostgreSQL's clock and this process's differ too much; the message states by how much, and the setting."""


def check_clock(
    now: datetime, *, asked_at_seconds: float, answered_at_seconds: float, difference_seconds_max: float
) -> None:
    """Compare PostgreSQL's time with this process's (in Unix time) before it was asked for and after it was received.

    Only what lies outside of that span is a difference, however long the statement or the event loop took.
    Raises ClockDiffers.
    """
    ahead_seconds, behind_seconds = now.timestamp() - answered_at_seconds, asked_at_seconds - now.timestamp()
    if max(ahead_seconds, behind_seconds) > difference_seconds_max:
        is_ahead = ahead_seconds > 0
        raise ClockDiffers(
            f"PostgreSQL's clock is {max(ahead_seconds, behind_seconds):,.1f} s {'ahead of' if is_ahead else 'behind'} "
            f"this process's clock, and CLOCK_DIFFERENCE_MAX_SECONDS allows {difference_seconds_max:g} s."
        )
