"""Reports the start-up state of a process to the program that started it, if that program listens.

`wallet up` prints `ready` only after its processes have reported that they do their work. Without a listener, nothing
is reported.

This module also logs why a process waits for a lease: once for each holder of the lease, not at every attempt.
"""

from collections.abc import Callable
from datetime import datetime
from enum import Enum, auto, unique

from structlog.typing import FilteringBoundLogger


@unique
class Started(Enum):
    """The states that a process reaches. Each is reported at most once."""

    LEADS = auto()
    """The relay has the lease."""
    STANDS_BY = auto()
    """Another relay has renewed the lease while this one waited for it."""
    FOLLOWS_JOURNAL = auto()
    """The worker follows the journal, or waits for the worker that does."""
    CONSUMES = auto()
    """The worker consumes its queue."""
    BROKER_IS_AWAY = auto()
    """RabbitMQ can't be reached; the process tries again."""


_listener: Callable[[str], None] | None = None
_reported: set[Started] = set()


def report_starts_to(listener: Callable[[str], None] | None) -> None:
    """Call `listener` with the name of each state that is reached from now on. None removes the listener."""
    global _listener  # noqa: PLW0603 - one process, one parent
    _listener = listener
    _reported.clear()


def report_started(state: Started) -> None:
    """Report that this process has reached a state."""
    if _listener is None or state in _reported:
        return
    _reported.add(state)
    _listener(state.name)


class Standby:
    """Logs the holder of a lease that one process waits for, once for each holder."""

    def __init__(self, log: FilteringBoundLogger, event: str) -> None:
        self._log = log
        self._event = event
        self._holder: str | None = None

    def report(self, holder: str | None, lease_until: datetime) -> None:
        """Log who holds the lease and until when, unless that holder was the last one logged."""
        if holder is not None and holder != self._holder:
            self._log.info(self._event, reason="another process holds the lease", holder=holder, until=str(lease_until))
            self._holder = holder

    def reset(self) -> None:
        """Log the next holder even if it is the same as before. Call it when this process has the lease."""
        self._holder = None
